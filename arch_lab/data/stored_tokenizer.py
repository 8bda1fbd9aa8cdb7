"""The tokenizer that a checkpoint carries, found by the checkpoint's own files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from arch_lab.data.formats import DataError


def is_checkpoint(path: Path) -> bool:
    """Whether ``path`` of a tokenizer of kind file names a checkpoint instead of a tokenizer.json."""
    return path.is_dir() or path.suffix == ".ckpt"


def stored_tokenizer(path: Path) -> Any:
    """The tokenizer of a run folder, a ``.ckpt`` file or its folder, a converted or a Hugging Face folder. Raises: DataError."""
    from arch_lab.data.tokenizer import load_tokenizer, read_tokenizer

    if (path / "tokenizer_kind.json").is_file():
        return load_tokenizer(path)
    if (path / "tokenizer.json").is_file():
        return read_tokenizer(path / "tokenizer.json")
    return _from_file(_file(path))


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    inside = [path / "model.ckpt"] if (path / "model.ckpt").is_file() else sorted({*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt")})
    if len(inside) != 1:
        raise DataError(f"tokenizer.path: {path} holds {len(inside) or 'no'} checkpoint{'s' * bool(inside)}; give one checkpoint")
    return inside[0]


def _from_file(path: Path) -> Any:
    import torch

    from arch_lab.data.tokenizer import tokenizer_from

    try:
        parts = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["tokenizer"] if zipfile.is_zipfile(path) else None
    except Exception:  # torch raises half a dozen types for what is not, or no longer, a checkpoint
        parts = None
    if parts is None:
        raise DataError(f"tokenizer.path: {path} is not a checkpoint with a tokenizer in it")
    return tokenizer_from(parts)
