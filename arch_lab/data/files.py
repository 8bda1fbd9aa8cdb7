"""Text, JSON lines and parquet on disk, plain, gzipped or zstandard, and archives of text files.

A byte-order mark at the start of a text file is dropped and CRLF becomes LF, so one text has one byte count
on every system.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arch_lab.data.archives import read_archive
from arch_lab.data.config import DataConfig
from arch_lab.data.documents import SPLITS, Splits, check_text, cut_documents, decode, lines_of
from arch_lab.data.formats import DataError, format_of
from arch_lab.data.paths import ROOT_VARIABLE, expand_paths
from arch_lab.data.streams import most_bytes, read_stream, readable, too_large
from blocks.errors import did_you_mean

_ROWS = 256  # of a parquet file, read at once


def read_files(config: DataConfig) -> Splits:
    """The documents of every split that has files. Raises: DataError, one line that names the file."""
    return {
        split: [document for path in paths for document in documents_of(path, config)]
        for split, paths in files_of_splits(config).items()
    }


def files_of_splits(config: DataConfig) -> dict[str, list[Path]]:
    """The files behind the names, folders and patterns of every split.

    Raises: DataError, also for a file in two splits.
    """
    assert config.files is not None
    splits: dict[str, list[Path]] = {}
    owners: dict[Path, str] = {}
    for split in SPLITS:
        names = config.files.of(split)
        if not names:
            continue
        hint = f" set data.root or the variable {ROOT_VARIABLE} to the folder that contains it"
        splits[split] = expand_paths(names, config.folder, option=f"data.files.{split}", hint=hint)
        for path in splits[split]:
            owner = owners.setdefault(path.resolve(), split)
            if owner != split:
                raise DataError(
                    f"data.files: {path} is in both {owner} and {split}; give each split its own files, "
                    f"or leave {split} out to have whole documents of train held out"
                )
    return splits


def content_keys(config: DataConfig) -> dict[str, list[str]]:
    """sha256 of every file of every split: same bytes, same key, wherever they lie."""
    paths = files_of_splits(config)
    return {split: [f"{path.name}:{file_hash(path)}" for path in paths.get(split, ())] for split in SPLITS}


def file_hash(path: Path) -> str:
    with readable(path), path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def documents_of(path: Path, config: DataConfig) -> list[str]:
    """Documents of one file, those without any text left out. Raises: DataError."""
    return read_documents(path, text_column=config.text_column, document_start=config.document_start)


def read_documents(path: Path, *, text_column: str = "text", document_start: str | None = None) -> list[str]:
    """Documents of one file of any format of ``formats``, those without any text left out.

    Options as in ``DataConfig``.

    Raises: DataError, one line that names the file, and the line or row where there is one.
    """
    form = format_of(path)
    if form.kind == ".tar":
        documents = read_archive(path, form.compression)
    elif form.kind == ".parquet":
        documents = from_rows(_parquet_rows(path, form.compression, text_column), document_start, str(path))
    elif form.kind == ".jsonl":
        documents = from_rows(_json_rows(path, text_column), document_start, str(path))
    else:
        text = read_text(path)
        documents = (
            [text] if document_start is None else cut_documents(lines_of(text), document_start, str(path))
        )
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise DataError(f"{path}: no document with text in it")
    return documents


def from_rows(rows: Iterator[str], document_start: str | None, location: str) -> list[str]:
    """Documents of the rows: one per row, or cut at ``document_start``."""
    if document_start is None:
        return list(rows)
    return cut_documents(
        (row if row.endswith("\n") else row + "\n" for row in rows), document_start, location
    )


def read_text(path: Path) -> str:
    """The text of one plain or compressed file: UTF-8, line ends as LF.

    Raises: DataError, also for an empty file.
    """
    raw = read_stream(path, format_of(path).compression)
    if not raw:
        raise DataError(f"{path}: the file is empty")
    return decode(raw, str(path))


def _json_rows(path: Path, column: str) -> Iterator[str]:
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        if not line.strip():
            continue
        location = f"{path} line {number}"
        try:
            row = json.loads(line)
        except RecursionError:
            raise DataError(
                f"{location}: JSON nested too deeply; one object with the key {column!r} is expected on "
                "each line"
            ) from None
        except ValueError as error:
            raise DataError(f"{location}: not JSON ({error})") from None
        if not isinstance(row, dict) or column not in row:
            keys = list(row) if isinstance(row, dict) else []
            raise DataError(f"{location}: no key {column!r} (data.text_column){did_you_mean(column, keys)}")
        yield check_text(row[column], location)


def _parquet_rows(path: Path, compression: str, column: str) -> Iterator[str]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{path}: reading parquet needs pyarrow (pip install pyarrow)") from None
    number = size = 0
    largest = most_bytes()
    try:
        source: Any = io.BytesIO(read_stream(path, compression)) if compression else str(path)
        with pq.ParquetFile(source) as table:
            if column not in table.schema_arrow.names:
                raise DataError(
                    f"{path}: no column {column!r} "
                    f"(data.text_column){did_you_mean(column, table.schema_arrow.names)}"
                )
            for batch in table.iter_batches(batch_size=_ROWS, columns=[column]):
                size += batch.nbytes
                if size > largest:
                    raise too_large(path, size, largest)
                for value in batch.column(0):
                    yield check_text(_parquet_value(value, f"{path} row {number}"), f"{path} row {number}")
                    number += 1
    except (pa.ArrowException, OSError, MemoryError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: not a valid parquet file ({reason})") from None


def _parquet_value(value: Any, location: str) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{location}: not UTF-8 at byte {error.start}; write the column again as UTF-8 text"
        ) from None
