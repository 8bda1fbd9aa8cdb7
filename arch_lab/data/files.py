"""Text, JSON lines and parquet on disk, plain or gzipped, and archives of text files.

A byte-order mark at the start of a text file is dropped and CRLF becomes LF, so one text has one byte count on every system.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from arch_lab.data.config import ROOT_VARIABLE, DataConfig
from arch_lab.data.documents import SPLITS, Splits, check_text, cut_documents, lines_of
from arch_lab.data.errors import DataError
from arch_lab.data.paths import expand_paths
from blocks.errors import did_you_mean


def read_files(config: DataConfig) -> Splits:
    """The documents of every split that has files. Raises: DataError, one line that names the file."""
    return {
        split: [document for path in paths for document in documents_of(path, config)] for split, paths in files_of_splits(config).items()
    }


def files_of_splits(config: DataConfig) -> dict[str, list[Path]]:
    """The files behind the names, folders and patterns of every split. Raises: DataError, also for a file in two splits."""
    assert config.files is not None
    splits: dict[str, list[Path]] = {}
    owners: dict[Path, str] = {}
    for split in SPLITS:
        names = config.files.of(split)
        if not names:
            continue
        hint = f" set data.root or the variable {ROOT_VARIABLE} to the folder it lies in"
        splits[split] = expand_paths(names, config.folder, option=f"data.files.{split}", hint=hint)
        for path in splits[split]:
            owner = owners.setdefault(path.resolve(), split)
            if owner != split:
                raise DataError(
                    f"data.files: {path} is in both {owner} and {split}; give each split files of its own, "
                    f"or leave {split} out to have whole documents of train held out"
                )
    return splits


def content_keys(config: DataConfig) -> dict[str, list[str]]:
    """sha256 of every file of every split: same bytes, same key, wherever they lie."""
    paths = files_of_splits(config)
    return {split: [f"{path.name}:{file_hash(path)}" for path in paths.get(split, ())] for split in SPLITS}


def file_hash(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def documents_of(path: Path, config: DataConfig) -> list[str]:
    """Documents of one file, those without any text left out. Raises: DataError."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] in ([".tar"], [".tgz"]) or suffixes[-2:] == [".tar", ".gz"]:
        return _archived(path)
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    raw = _bytes(path)
    if not raw:
        raise DataError(f"{path}: the file is empty")
    if kind in (".jsonl", ".parquet"):
        rows = _json_rows(path, raw, config.text_column) if kind == ".jsonl" else _parquet_rows(path, raw, config.text_column)
        documents = from_rows(rows, config.document_start, str(path))
    else:
        text = _decode(path, raw)
        documents = [text] if config.document_start is None else cut_documents(lines_of(text), config.document_start, str(path))
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise DataError(f"{path}: no document with text in it")
    return documents


def _archived(path: Path) -> list[str]:
    """The text files of a tar archive, a document each, by name and not by their place in it. Raises: DataError."""
    texts: dict[str, str] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                handle = archive.extractfile(member) if member.isfile() else None
                if handle is not None:
                    texts[member.name] = _decode(Path(f"{path}:{member.name}"), handle.read())
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a sound tar archive ({str(error).splitlines()[0]}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    documents = [texts[name] for name in sorted(texts) if texts[name].strip()]
    if not documents:
        raise DataError(f"{path}: no file with text in it")
    return documents


def from_rows(rows: Iterator[str], document_start: str | None, where: str) -> list[str]:
    """A row is a document, or a line when ``document_start`` says how documents begin (line-wise hub datasets)."""
    if document_start is None:
        return list(rows)
    return cut_documents((row if row.endswith("\n") else row + "\n" for row in rows), document_start, where)


def _bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix.lower() == ".gz" and raw else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a sound gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _decode(path: Path, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} (0x{raw[error.start]:02x})"
        raise DataError(f"{path}: not UTF-8 at {found}; convert it, for example with iconv -f latin1 -t utf-8") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _json_rows(path: Path, raw: bytes, column: str) -> Iterator[str]:
    for number, line in enumerate(lines_of(_decode(path, raw)), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: not JSON ({error})") from None
        if not isinstance(row, dict) or column not in row:
            keys = list(row) if isinstance(row, dict) else []
            raise DataError(f"{where}: no key {column!r} (data.text_column){did_you_mean(column, keys)}")
        yield check_text(row[column], where)


def _parquet_rows(path: Path, raw: bytes, column: str) -> Iterator[str]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{path}: reading parquet needs pyarrow (pip install pyarrow)") from None
    try:
        table = pq.ParquetFile(io.BytesIO(raw))
        if column not in table.schema_arrow.names:
            raise DataError(f"{path}: no column {column!r} (data.text_column){did_you_mean(column, table.schema_arrow.names)}")
        values = table.read(columns=[column]).column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a sound parquet file ({str(error).splitlines()[0]})") from None
    for number, value in enumerate(values):
        yield check_text(value, f"{path} row {number}")
