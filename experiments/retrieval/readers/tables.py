"""Rows of quoted comma-separated tables by column name, with their line."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from arch_lab.data import DataError
from blocks.errors import did_you_mean

R = TypeVar("R", bound=NamedTuple)


def rows(text: str, location: str, row_class: type[R]) -> Iterator[tuple[str, R]]:
    """(place, row) of every row below the header. ``row_class``: its fields are the columns that are read.

    Raises: DataError naming the column or the line.
    """
    if "\0" in text:
        raise DataError(f"{location}: holds a NUL byte; the file is damaged")
    limit = csv.field_size_limit(sys.maxsize)  # an abstract may be longer than the 128 KiB it stops at
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = table.fieldnames or []
        for column in row_class._fields:
            if column not in names:
                raise DataError(f"{location}: no column {column!r}{did_you_mean(column, names)}")
        for row in table:
            line = f"{location} line {table.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{line}: not the {len(names)} columns of the header ({', '.join(names)})")
            yield line, row_class._make(row[column] for column in row_class._fields)
    except csv.Error as error:
        raise DataError(f"{location}: not a valid table ({error}); is the file cut off?") from None
    finally:
        csv.field_size_limit(limit)


def number(value: str, location: str, column: str) -> int:
    """Raises: DataError unless it is a whole number, 0 or more."""
    if not value.strip().isdecimal():
        raise DataError(f"{location}: {column} {value!r} is not a whole number")
    return int(value)
