"""Archives, read within bounds.

Of a tar archive one document per text file, ordered by name and not by place.
"""

from __future__ import annotations

import itertools
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from arch_lab.data.documents import decode
from arch_lab.data.formats import DataError
from arch_lab.data.streams import CHUNK, ByteReader, check_expansion, chunks, most_bytes, readable, too_large


def read_archive(path: Path, compression: str) -> list[str]:
    """The text of every file with any in the archive. Raises: DataError."""
    texts = {name: decode(bytes(content), f"{path}:{name}") for name, content in members(path, compression)}
    documents = [texts[name] for name in sorted(texts) if texts[name].strip()]
    if not documents:
        raise DataError(f"{path}: no file with text in it")
    return documents


def members(path: Path, compression: str) -> Iterator[tuple[str, bytearray]]:
    """Name and content of every file of the archive.

    Raises: DataError, also when it expands too far (see streams).
    """
    stream = chunks(path, compression)
    first = next(stream, b"")
    if not compression and first.startswith(b"\x1f\x8b"):  # gzipped under the name .tar
        yield from members(path, ".gz")
        return
    largest, total = most_bytes(), 0
    try:
        reader = ByteReader(itertools.chain([first], stream))
        with tarfile.open(fileobj=reader, mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                # tarfile remembers every header: memory that an archive of empty files fills
                archive.members.clear()
                handle = archive.extractfile(member) if member.isfile() else None
                if handle is None:
                    continue
                if member.size > largest - total:
                    raise _cut_or_too_large(path, member, compression, largest)
                raw = _content(handle, member)
                total += len(raw)
                yield member.name, raw
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError, RecursionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: not a valid tar archive ({reason}); fetch it again") from None


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip archive, by whose headers its members expand within bounds. Raises: DataError.

    No member yields more bytes than its header claims: the library stops there.
    """
    with readable(path):
        try:
            archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataError(f"{path}: not a valid zip file ({error}); fetch it again") from None
        total, largest = unpacked_size(archive), most_bytes()
        check_expansion(path, path.stat().st_size, total)
        if total > largest:
            raise too_large(path, total, largest)
    return archive


def unpacked_size(archive: zipfile.ZipFile) -> int:
    """Bytes that all members claim; two that share their data count twice."""
    return sum(info.file_size for info in archive.infolist())


def check_stored(path: Path) -> None:
    """Check that a zip file of torch expands to no more than it holds, for torch compresses nothing.

    Raises: DataError; what zipfile raises for a damaged file.
    """
    with zipfile.ZipFile(path) as archive:
        total = unpacked_size(archive)
    if total > path.stat().st_size:
        raise DataError(
            f"{path}: its members claim {total} bytes, more than the file holds; torch would not write that"
        )


def _content(handle: IO[bytes], member: tarfile.TarInfo) -> bytearray:
    """All bytes of a member, in pieces: asked for at once, the claimed size would be allocated first."""
    content = bytearray()
    while chunk := handle.read(min(CHUNK, member.size - len(content))):
        content += chunk
    if len(content) < member.size:
        raise tarfile.ReadError(
            f"{member.name} claims {member.size} bytes, but only {len(content)} are present"
        )
    return content


def _cut_or_too_large(path: Path, member: tarfile.TarInfo, compression: str, largest: int) -> DataError:
    if not compression and member.size > path.stat().st_size:
        claim = f"{member.name} claims {member.size} bytes, more than the archive holds"
        return DataError(f"{path}: not a valid tar archive ({claim}); fetch it again")
    return too_large(path, member.size, largest)
