"""Files of a study, written whole or not at all.

A result is recognised by the hash of everything that determines it, never by its path alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from arch_lab.report.markup import flatten
from blocks.errors import UserError


class OutputError(UserError):
    """The output folder cannot be written, or holds results of something else."""


def digest(content: Any) -> str:
    """Short hash of plain JSON content, key order immaterial."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def differences(a: Any, b: Any) -> list[str]:
    """Dotted keys at which two plain contents differ."""
    one, two = ({key: digest(value) for key, value in flatten(side)} for side in (a, b))
    return sorted(key for key in {*one, *two} if one.get(key) != two.get(key))


def write_text(path: Path, text: str) -> None:
    """Atomic: a reader sees the old file or the new one. Raises: OutputError (disk full, read-only, not a folder)."""
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None
        raise OutputError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder with --output") from None


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Content, or None when the file is missing or was damaged (it is then redone, never trusted)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def check_writable(folder: Path) -> None:
    """Raises: OutputError now, not after an hour of training."""
    probe = folder / ".write-probe"
    write_text(probe, "")
    probe.unlink()
