"""JSON objects and atomically created folders of a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arch_lab.checkpoints.checkpoint import CheckpointError
from arch_lab.stored import Json
from arch_lab.yaml_files import load_json


def read_object(path: Path) -> Json:
    """A JSON object. Raises: CheckpointError, one line that begins with the path."""
    if not os.path.exists(path):
        raise CheckpointError(f"{path} is missing")
    content = load_json(path, error=CheckpointError)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


def write_object(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Create ``target`` atomically: written under another name, then renamed.

    Raises: CheckpointError when ``target`` already holds something.
    """
    temporary = _part_of(target)
    try:
        yield temporary
        temporary.chmod(0o777 & ~umask())  # mkdtemp's 0700 would shut out others
        _appear(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _part_of(target: Path) -> Path:
    """A fresh folder next to ``target``.

    Raises: UserError when none can be made there, or ``target`` is taken.
    """
    try:
        if target.is_symlink():
            raise CheckpointError(f"{target} is a link; name the folder it leads to, or remove it")
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise CheckpointError(f"{target} exists and is not empty; choose another target, or remove it")
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}-", suffix=".part", dir=target.parent))
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        raise _no_target(target, error) from None


def _appear(temporary: Path, target: Path) -> None:
    try:
        os.replace(temporary, target)
    except OSError as error:
        raise _no_target(target, error) from None


def _no_target(target: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or error
    return CheckpointError(f"cannot write {str(target)[:200]}: {reason}; choose another target")


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
