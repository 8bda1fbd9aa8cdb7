"""Where a file of a set lies: in the data root itself, or in the set's own folder below it."""

from __future__ import annotations

import os
from pathlib import Path

from arch_lab.data.config import ROOT_VARIABLE
from arch_lab.data.errors import DataError
from arch_lab.data.paths import expand_home
from blocks.errors import did_you_mean


def data_root(root: str | Path | None) -> Path:
    """``root`` (--data-root), else the variable ARCH_LAB_DATA, else the current folder."""
    return expand_home(root or os.environ.get(ROOT_VARIABLE) or ".", "--data-root")


def find_in(root: str | Path, folder: str, name: str) -> Path:
    """Raises: DataError naming the file, the folders searched and what to set."""
    root = Path(root)
    for place in (root / folder, root):
        if (place / name).is_file():
            return place / name
    near = did_you_mean(name, [p.name for place in (root / folder, root) if place.is_dir() for p in place.iterdir() if p.is_file()])
    near = near if "did you mean" in near else ";"
    raise DataError(
        f"no file {name!r} in {root} or its folder {folder!r}{near} set --data-root or {ROOT_VARIABLE} to the folder of the data sets"
    )
