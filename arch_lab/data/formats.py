"""File formats by suffix: what a file holds and how it is compressed; the error of all readers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blocks.errors import UserError

TEXT = (".txt", ".text", ".md", ".markdown", ".rst", ".tokens")
ROWS = (".jsonl", ".parquet")
COMPRESSED = (".gz", ".zst")
FOLDER_SUFFIXES = (*TEXT, *ROWS, ".tar", ".tgz")  # what is read in a folder, plain or compressed


class DataError(UserError):
    """Data that is missing, unreadable, too small or impossible to store."""


@dataclass(frozen=True)
class Format:
    """``kind``: the suffix below any compression, ``.tar`` for archives.

    ``compression``: ``.gz``, ``.zst`` or ``""``.
    """

    kind: str
    compression: str = ""


def format_of(path: Path) -> Format:
    """The format that a name announces; an unknown suffix is text."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".tgz"]:
        return Format(".tar", ".gz")
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else ""
    return Format(suffixes[-1] if suffixes else "", compression)


def is_read_in_folders(path: Path) -> bool:
    """Whether a folder that holds ``path`` is read with it: a known suffix and no hidden file."""
    return not path.name.startswith(".") and format_of(path).kind in FOLDER_SUFFIXES
