"""Files as bounded streams of bytes, decompressed on the way.

A file that expands beyond what this machine can hold, or far beyond what text does, ends in one line instead
of a full memory.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from arch_lab.data.formats import DataError
from arch_lab.memory import available_memory

CHUNK = 1 << 20
LARGEST = 20 * 10**9  # bytes of one file, decompressed
RATIO = 200  # text packs 3 to 20 times, text that packs better repeats itself
UNSUSPECTED = 100 * 10**6  # bytes up to which any ratio is accepted
COPIES = 3  # raw bytes, text and documents are held at once
_ZSTD_INPUT = 4096  # bytes handed over at once: each can expand to 32 KiB


def read_stream(path: Path, compression: str) -> bytearray:
    """The whole content. Raises: DataError when the file is unreadable, damaged or expands too far."""
    content = bytearray()
    for chunk in chunks(path, compression):
        content += chunk
    return content


def chunks(path: Path, compression: str) -> Iterator[bytes]:
    """The decompressed content in pieces. Raises: DataError as ``read_stream``."""
    with readable(path):
        packed = path.stat().st_size
        largest = most_bytes()
        total = 0
        if not compression and packed > largest:
            raise too_large(path, packed, largest)
        with path.open("rb") as file:
            for chunk in _decompressed(file, compression):
                total += len(chunk)
                if total > largest:
                    raise too_large(path, total, largest)
                if compression:
                    check_expansion(path, packed, total)
                yield chunk


def check_expansion(path: Path, packed: int, total: int) -> None:
    """Raises: DataError when ``packed`` bytes of ``path`` expand to ``total``, further than data do."""
    if total > UNSUSPECTED and total > RATIO * packed:
        raise DataError(
            f"{path}: {packed} compressed bytes expand to more than {total}, over {RATIO} times as many, "
            "which is unusual for text; decompress the file yourself if this is intended"
        )


def most_bytes() -> int:
    """Decompressed bytes of one file that are read: a share of the free memory, at most ``LARGEST``."""
    free = available_memory()
    return LARGEST if free is None else min(LARGEST, free // COPIES)


def too_large(path: Path, size: int, largest: int) -> DataError:
    return DataError(
        f"{path}: at least {size / 1e9:.1f} GB of text; this machine can read {largest / 1e9:.1f} GB from "
        "one file now; free memory or split the file"
    )


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong while ``path`` is read, as a DataError in one line."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a valid gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


class ByteReader:
    """Chunks as a file object that only reads forward, as tarfile's stream mode wants."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source, self._buffer = source, b""

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size and (chunk := next(self._source, None)) is not None:
            self._buffer += chunk
        content, self._buffer = self._buffer[:size], self._buffer[size:]
        return content


def _decompressed(file: IO[bytes], compression: str) -> Iterator[bytes]:
    if compression == ".zst":
        yield from _zstandard(file)
        return
    source = gzip.GzipFile(fileobj=file) if compression == ".gz" else file
    while chunk := source.read(CHUNK):
        yield chunk


def _zstandard(file: IO[bytes]) -> Iterator[bytes]:
    """Frame after frame.

    The library's own reader takes a frame that is cut off for its end, so the end is checked here.
    """
    try:
        import zstandard
    except ImportError:
        raise DataError(
            f"{file.name}: reading .zst needs the package zstandard (pip install zstandard)"
        ) from None
    frame = None
    try:
        while chunk := file.read(_ZSTD_INPUT):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(chunk)
                chunk = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise DataError(f"{file.name}: not a valid zstandard file ({error}); fetch it again") from None
    if frame is not None:
        raise DataError(f"{file.name}: not a valid zstandard file (it ends within a frame); fetch it again")
