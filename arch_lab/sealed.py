"""JSON files that carry the checksum of their own content, so that an edited or damaged one is noticed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from arch_lab import files
from arch_lab.stored import Json
from arch_lab.yaml_files import load_json
from blocks.errors import ConfigError, UserError

CHECKSUM = "checksum"


class DamagedError(UserError):
    """A stored file that is not, byte for byte, what was written."""


def checksum(content: Any) -> str:
    """SHA-256 of plain JSON content, independent of the order of its keys.

    Raises: ValueError for NaN and infinities.
    """
    plain = json.loads(
        json.dumps(content, allow_nan=False)
    )  # as it will be read: keys are strings, tuples are lists
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def seal(content: Json) -> Json:
    """``content`` with its checksum as the last key."""
    bare = {key: value for key, value in content.items() if key != CHECKSUM}
    return {**bare, CHECKSUM: checksum(bare)}


def write(path: Path, content: Json) -> Json:
    """Write ``content`` sealed, atomically; returns what was written. Raises: OutputError."""
    sealed = seal(content)
    files.write_json(path, sealed)
    return sealed


def read(path: Path, *, advice: str) -> Json:
    """The sealed content of ``path``, its checksum included.

    ``advice``: what the reader of the error can do. Raises: DamagedError when the file is unreadable, cut
    short or edited.
    """
    if not os.path.exists(path):
        raise DamagedError(f"{path} is missing; {advice}")
    try:
        content = load_json(path)
    except ConfigError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise DamagedError(f"{path} is damaged (not valid JSON: {reason}); {advice}") from None
    if not isinstance(content, dict) or CHECKSUM not in content:
        raise DamagedError(f"{path} has no checksum (edited, or written by an older version); {advice}")
    if not _is_whole(content):
        raise DamagedError(
            f"{path} was edited or damaged after it was written (its checksum does not match); {advice}"
        )
    return content


def _is_whole(content: Json) -> bool:
    try:
        return bool(seal(content) == content)
    except (ValueError, RecursionError):  # NaN, or nested without end: never written here
        return False


def read_or_none(path: Path) -> Json | None:
    """As ``read``; None for a file that is missing or not what was written, where it can be made again."""
    try:
        return read(path, advice="")
    except DamagedError:
        return None


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
