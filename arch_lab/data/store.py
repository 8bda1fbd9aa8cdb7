"""Token ids on disk: fingerprinted, written whole or not at all, read into memory or mapped.

A split is two files: ``<name>.bin`` (little-endian ids, uint16 or uint32) and ``<name>.json`` beside it (the
sidecar), which holds the sha256 of the former; ``data.json`` of the folder holds the sha256 of the sidecars.
What does not agree is never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arch_lab.data.documents import Counts
from arch_lab.data.formats import DataError
from arch_lab.files import OutputError, write_bytes
from arch_lab.stored import Json

MAPPED_FROM = 256 << 20  # bytes of a split beyond which it is mapped instead of read


class Corrupt(Exception):
    """A cached file that is missing, cut or changed: the caller builds it again."""


@dataclass(frozen=True)
class TokenSplit:
    """One split as ids, uint16 or uint32 (tokens,), not writable; every document follows one separator.

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

    def require(self, tokens: int, consumer: str = "one batch") -> None:
        """Raises: DataError when the split is shorter than ``tokens``."""
        if self.tokens < tokens:
            raise DataError(
                f"the {self.name} split has {self.tokens} tokens, {consumer} needs {tokens}; "
                "give more text, shorter sequences or fewer rows"
            )

    def summary(self) -> Json:
        return {
            "tokens": self.tokens,
            "bytes": self.bytes,
            "words": self.words,
            "documents": self.documents,
            "bytes_per_token": round(self.bytes / max(1, self.tokens - self.documents), 4),
            "fingerprint": self.fingerprint,
        }


def write_split(folder: Path, name: str, ids: np.ndarray, counts: Counts, fingerprint: str) -> str:
    """Ids, then the sidecar that vouches for them; returns the sha256 of the sidecar, which vouches for that.

    ``fingerprint`` is that of the data and tokenizer they come from.
    """
    raw = ids.astype(ids.dtype.newbyteorder("<"), copy=False).tobytes()
    write_bytes(folder / f"{name}.bin", raw)
    sidecar = {
        "dtype": ids.dtype.name,
        "tokens": len(ids),
        "bytes": counts.bytes,
        "words": counts.words,
        "documents": counts.documents,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "fingerprint": fingerprint,
    }
    content = json.dumps(sidecar, indent=1).encode()
    write_bytes(folder / f"{name}.json", content)
    return hashlib.sha256(content).hexdigest()


def open_split(folder: Path, name: str, fingerprint: str, seal: str) -> TokenSplit:
    """The split as written: its sidecar checked against ``seal``, its ids against size and sha256.

    Raises: Corrupt.
    """
    sidecar = read_json(folder / f"{name}.json", seal)
    path = folder / f"{name}.bin"
    try:
        dtype: np.dtype[Any] = np.dtype({"uint16": "<u2", "uint32": "<u4"}[sidecar["dtype"]])
        numbers = {key: int(sidecar[key]) for key in ("tokens", "bytes", "words", "documents")}
        if sidecar["fingerprint"] != fingerprint:
            raise Corrupt(f"{path} belongs to other data")
        ids = _read_ids(path, dtype, numbers.pop("tokens"), sidecar["sha256"])
    except (KeyError, TypeError, ValueError, OSError, DataError) as error:
        raise Corrupt(f"{path} is incomplete ({error})") from None
    return TokenSplit(name=name, ids=ids, fingerprint=sidecar["sha256"], **numbers)


def _read_ids(path: Path, dtype: np.dtype[Any], tokens: int, digest: str) -> np.ndarray:
    """Ids in memory, or mapped where they are many.

    A mapped file that somebody cuts ends the process, one in memory cannot.
    """
    size = tokens * dtype.itemsize
    if path.stat().st_size == size:
        if size > MAPPED_FROM:
            ids: np.ndarray = np.memmap(path, dtype, mode="r", shape=(tokens,))
        else:
            ids = np.frombuffer(path.read_bytes(), dtype)
        if len(ids) == tokens and hashlib.sha256(ids.data).hexdigest() == digest:
            return ids
    raise Corrupt(f"{path} does not match its sidecar file")


def read_json(path: Path, seal: str | None = None) -> Json:
    """Raises: Corrupt unless the file holds a JSON object and has the sha256 ``seal``, if one is given."""
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(f"{path} is unreadable ({type(error).__name__})") from None
    if seal is not None and hashlib.sha256(raw).hexdigest() != seal:
        raise Corrupt(f"{path} has changed")
    if not isinstance(content, dict):
        raise Corrupt(f"{path} holds no object")
    return content


@contextlib.contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """A cache that cannot be written ends in one line. Raises: DataError."""
    try:
        yield
    except (OSError, OutputError) as error:
        cause = error.__context__ if isinstance(error, OutputError) else error
        reason = getattr(cause, "strerror", None) or error
        raise DataError(
            f"cannot write the data cache {folder} ({reason}); free space or choose another cache folder"
        ) from None
