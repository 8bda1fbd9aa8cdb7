"""A finished study of speed, timed once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import arch_lab
from arch_lab.study.study import Study
from tests.experiments.throughput.speed_study import write_study


@pytest.fixture(scope="package")
def timed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    folder = tmp_path_factory.mktemp("timed")
    return folder, arch_lab.compare(str(write_study(folder)), output=folder / "runs", threads=1, quiet=True)
