"""Rows of quoted comma-separated tables by column name, with their line."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence

from arch_lab.data import DataError
from blocks.errors import did_you_mean


def rows(text: str, location: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, value by column) of every row below the header.

    Raises: DataError naming the column or the line.
    """
    if "\0" in text:
        raise DataError(f"{location}: holds a NUL byte; the file is damaged")
    limit = csv.field_size_limit(sys.maxsize)  # an abstract may be longer than the 128 KiB it stops at
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = table.fieldnames or []
        for column in columns:
            if column not in names:
                raise DataError(f"{location}: no column {column!r}{did_you_mean(column, names)}")
        for row in table:
            line = f"{location} line {table.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{line}: not the {len(names)} columns of the header ({', '.join(names)})")
            yield line, row
    except csv.Error as error:
        raise DataError(f"{location}: not a valid table ({error}); is the file cut off?") from None
    finally:
        csv.field_size_limit(limit)


def number(value: str, location: str, column: str) -> int:
    """Raises: DataError unless it is a whole number, 0 or more."""
    if not value.strip().isdecimal():
        raise DataError(f"{location}: {column} {value!r} is not a whole number")
    return int(value)
