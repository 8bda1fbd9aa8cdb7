"""What several tests of triplets share."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.triplets.readers.common import RegressionSet
from experiments.triplets.readers.uci import UciArchive
from tests.experiments.triplets.triplet_files import (
    uci_members,
    write_music,
    write_omniglot,
    write_uci,
    write_vowels,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_uci(folder, uci_members())
    write_music(folder)
    write_omniglot(folder)
    for split in ("train", "test"):
        write_vowels(folder, split)
    return folder


@pytest.fixture(scope="module")
def yacht(root: Path) -> RegressionSet:
    return UciArchive(root).read("yacht")
