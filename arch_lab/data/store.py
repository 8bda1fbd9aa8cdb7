"""Token ids on disk: memory-mapped, fingerprinted, written whole or not at all.

A split is two files: ``<name>.bin`` (little-endian ids, uint16 or uint32) and ``<name>.json`` beside it (the sidecar), which holds
the sha256 of the former. What does not agree with its sidecar is never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arch_lab.data.documents import Counts
from arch_lab.data.errors import DataError
from arch_lab.data.files import file_hash


class Corrupt(Exception):
    """A cached file that is missing, cut or changed: the caller builds it again."""


@dataclass(frozen=True)
class TokenSplit:
    """One split as ids, a memory map of uint16 or uint32 (tokens,); every document follows one separator.

    ``bytes`` and ``words`` are those of the text. ``fingerprint`` is the sha256 of the ids.
    """

    name: str
    ids: np.ndarray
    bytes: int
    words: int
    documents: int
    fingerprint: str

    @property
    def tokens(self) -> int:
        return len(self.ids)

    def require(self, tokens: int, why: str = "one batch") -> None:
        """Raises: DataError when the split is shorter than ``tokens``."""
        if self.tokens < tokens:
            raise DataError(
                f"the {self.name} split has {self.tokens} tokens, {why} needs {tokens}; give more text, shorter sequences or fewer rows"
            )

    def summary(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "bytes": self.bytes,
            "words": self.words,
            "documents": self.documents,
            "bytes_per_token": round(self.bytes / max(1, self.tokens - self.documents), 4),
            "fingerprint": self.fingerprint,
        }


def write_split(folder: Path, name: str, ids: np.ndarray, counts: Counts, fingerprint: str) -> None:
    """Ids, then the sidecar that vouches for them. ``fingerprint`` is that of the data and tokenizer they come from."""
    raw = ids.astype(ids.dtype.newbyteorder("<"), copy=False).tobytes()
    write_atomically(folder / f"{name}.bin", raw)
    sidecar = {
        "dtype": ids.dtype.name,
        "tokens": len(ids),
        "bytes": counts.bytes,
        "words": counts.words,
        "documents": counts.documents,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "fingerprint": fingerprint,
    }
    write_atomically(folder / f"{name}.json", json.dumps(sidecar, indent=1).encode())


def open_split(folder: Path, name: str, fingerprint: str) -> TokenSplit:
    """The split as written, checked against size and sha256. Raises: Corrupt."""
    sidecar = read_json(folder / f"{name}.json")
    path = folder / f"{name}.bin"
    try:
        dtype: np.dtype[Any] = np.dtype({"uint16": "<u2", "uint32": "<u4"}[sidecar["dtype"]])
        numbers = {key: int(sidecar[key]) for key in ("tokens", "bytes", "words", "documents")}
        if sidecar["fingerprint"] != fingerprint:
            raise Corrupt(f"{path} belongs to other data")
        if path.stat().st_size != numbers["tokens"] * dtype.itemsize or file_hash(path) != sidecar["sha256"]:
            raise Corrupt(f"{path} is not what its sidecar says")
        ids = np.memmap(path, dtype, mode="r", shape=(numbers.pop("tokens"),))
    except (KeyError, TypeError, ValueError, OSError, DataError) as error:
        raise Corrupt(f"{path} is incomplete ({error})") from None
    return TokenSplit(name=name, ids=ids, fingerprint=sidecar["sha256"], **numbers)


def read_json(path: Path) -> dict[str, Any]:
    """Raises: Corrupt unless the file holds a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path} is unreadable ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise Corrupt(f"{path} holds no object")
    return content


def write_atomically(path: Path, content: bytes) -> None:
    """The file appears complete or stays as it was, also when the process is killed or the disk is full."""
    handle, name = tempfile.mkstemp(prefix=path.name + ".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's 0600 would shut out others who share the cache
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """A cache that cannot be written ends in one line. Raises: DataError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write the data cache {folder} ({reason}); free space or choose another cache folder") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
