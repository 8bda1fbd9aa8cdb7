"""The checkpoint of an unfinished run, written with its SHA-256 to detect damage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab import files
from arch_lab.sealed import file_sha256

if TYPE_CHECKING:  # seconds to import
    import lightning.pytorch as pl

CHECKPOINT = "last.ckpt"
State = dict[str, Any]  # of a checkpoint or a callback, as Lightning passes it


def save(trainer: pl.Trainer, path: Path, *, weights_only: bool = False) -> None:
    """Write a checkpoint atomically, with its SHA-256 in a second file.

    ``weights_only``: without the state of optimizer and loaders, a third of the size; no training goes on
    from it. While the file is replaced its sidecar names the old and the new one, so that a kill between the
    two writes loses neither.
    """
    with files.atomic_path(path) as temporary:
        trainer.save_checkpoint(temporary, weights_only=weights_only)
        checksum = file_sha256(temporary)
        files.write_text(
            _hash_path(path), "".join(f"{line}\n" for line in [*_known_hashes(path)[-1:], checksum])
        )
    files.write_text(_hash_path(path), checksum + "\n")


def intact(path: Path) -> bool:
    """True when the checkpoint is there and is, byte for byte, what was saved."""
    try:
        return file_sha256(path) in _known_hashes(path)
    except OSError:
        return False


def _known_hashes(path: Path) -> list[str]:
    try:
        return _hash_path(path).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []


def discard(path: Path) -> None:
    path.unlink(missing_ok=True)
    _hash_path(path).unlink(missing_ok=True)


def _hash_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
