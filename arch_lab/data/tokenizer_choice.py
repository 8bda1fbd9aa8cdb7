"""Selection of a study's tokenizer: bytes, trained, from a file or a checkpoint."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from arch_lab.data.archives import check_stored
from arch_lab.data.config import TokenizerConfig
from arch_lab.data.formats import DataError
from arch_lab.data.paths import expand_home
from arch_lab.data.tokenizer import (
    ByteTokenizer,
    Tokenizer,
    load_tokenizer,
    read_tokenizer,
    tokenizer_from,
    train_bpe,
)


def make_tokenizer(config: TokenizerConfig, documents: Sequence[str], root: Path = Path(".")) -> Tokenizer:
    """The tokenizer a configuration asks for; ``documents`` are the training split, the only text a BPE sees.

    Raises: DataError when it cannot be read or the vocabulary cannot be reached.
    """
    if config.kind == "bytes":
        return ByteTokenizer()
    if config.kind == "bpe":
        return train_bpe(documents, config.entries)
    assert config.path is not None
    path = root / expand_home(config.path, "tokenizer.path")
    tokenizer = stored_tokenizer(path) if is_checkpoint(path) else read_tokenizer(path, config.separator)
    if config.vocabulary not in (None, tokenizer.vocabulary):
        raise DataError(
            f"tokenizer.vocabulary: {config.path} has {tokenizer.vocabulary} entries with its separator, "
            f"not {config.vocabulary}; leave the option out"
        )
    return tokenizer


def is_checkpoint(path: Path) -> bool:
    """Whether ``path`` of a tokenizer of kind file names a checkpoint instead of a tokenizer.json."""
    return path.is_dir() or path.suffix == ".ckpt"


def stored_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a checkpoint of any kind, found by its own files. Raises: DataError."""
    if (path / "tokenizer_kind.json").is_file():
        return load_tokenizer(path)
    if (path / "tokenizer.json").is_file():
        return read_tokenizer(path / "tokenizer.json")
    return _from_file(_file(path))


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    checkpoints = (
        [path / "model.ckpt"]
        if (path / "model.ckpt").is_file()
        else sorted({*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt")})
    )
    if len(checkpoints) != 1:
        raise DataError(
            f"tokenizer.path: {path} holds {len(checkpoints) or 'no'} checkpoint{'s' * bool(checkpoints)}; "
            "give one checkpoint"
        )
    return checkpoints[0]


def _from_file(path: Path) -> Tokenizer:
    import torch

    parts = None
    try:
        if zipfile.is_zipfile(path):
            check_stored(path)
            parts = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["tokenizer"]
    except DataError:
        raise
    except Exception:  # torch raises half a dozen types for what is not, or no longer, a checkpoint
        pass
    if parts is None:
        raise DataError(f"tokenizer.path: {path} is not a checkpoint with a tokenizer in it")
    return tokenizer_from(parts)
