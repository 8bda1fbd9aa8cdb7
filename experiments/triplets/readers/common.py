"""Files, numbers and regression sets, shared by the readers of this folder.

Legend: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from arch_lab.data import DataError
from arch_lab.data.paths import ROOT_VARIABLE
from arch_lab.stored import Facts
from blocks.errors import did_you_mean

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class RegressionSet:
    """``splits``: (training rows, test rows) of each fold, indices that are disjoint.

    ``facts``: what a reader of scores must know.
    """

    name: str
    features: Array  # (N, F) float64
    target: Array  # (N,) float64
    splits: tuple[tuple[Array, Array], ...]
    facts: Facts = field(default_factory=dict)

    def split(self, seed: int) -> tuple[Array, Array]:
        """Fold ``seed``. Raises: DataError when there is none of that number."""
        if not 0 <= seed < len(self.splits):
            raise DataError(
                f"{self.name}: no split {seed}; it comes with splits 0 … {len(self.splits) - 1}, "
                "and seed s uses split s"
            )
        return self.splits[seed]

    @property
    def repeated(self) -> int:
        """Test rows of split 0 whose features also occur in its training rows."""
        train, test = self.splits[0]
        training_rows = {row.tobytes() for row in self.features[train]}
        return sum(row.tobytes() in training_rows for row in self.features[test])


def table(text: str, location: str) -> Array:
    """Numbers separated by white space, as many in every line. Raises: DataError with the line."""
    lines = text.rstrip().split("\n")
    if not lines[0].strip():
        raise DataError(
            f"{location} line 1: no numbers" if text.strip() else f"{location}: the file is empty"
        )
    width = len(lines[0].split())
    rows = []
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        if len(cells) != width:
            raise DataError(f"{location} line {number}: {len(cells)} columns, line 1 has {width}")
        rows.append([finite(cell, f"{location} line {number}") for cell in cells])
    return np.array(rows)


def finite(cell: str, location: str) -> float:
    """Raises: DataError for what is no number, or an infinite one."""
    try:
        value = float(cell)
    except ValueError:
        raise DataError(f"{location}: {cell[:40]!r} is not a number") from None
    if not -inf < value < inf:
        raise DataError(f"{location}: {cell!r} is not a finite number")
    return value


def within(target: Sequence[float] | Array, low: float, high: float, location: str) -> None:
    """Raises: DataError with the line of the first label that is outside low … high."""
    for number, value in enumerate(target, start=1):
        if not low <= value <= high:
            raise DataError(f"{location} line {number}: label {value:g} is outside {low:g} … {high:g}")


def find_in(root: str | Path, folder: str, name: str) -> Path:
    """A file in the data root or in the set's folder below it.

    Raises: DataError naming the file, the folders searched and what to set.
    """
    folders = (Path(root) / folder, Path(root))
    for parent in folders:
        if (parent / name).is_file():
            return parent / name
    names = [
        path.name for parent in folders if parent.is_dir() for path in parent.iterdir() if path.is_file()
    ]
    hint = did_you_mean(name, names)
    hint = hint if "did you mean" in hint else ";"
    raise DataError(
        f"no file {name!r} in {Path(root)} or its folder {folder!r}{hint} set --data-root or "
        f"{ROOT_VARIABLE} to the folder of the data sets"
    )
