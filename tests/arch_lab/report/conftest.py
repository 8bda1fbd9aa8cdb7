"""What several tests of reports share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.arch_lab.report.shapes import SHAPES
from tests.study_fixture import write_study


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shape -> folder of a stored study, without its report."""
    return {
        name: write_study(tmp_path_factory.mktemp("study") / "quickstart", **options)
        for name, options in SHAPES.items()
    }
