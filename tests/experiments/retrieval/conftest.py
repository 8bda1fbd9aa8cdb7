"""Sets, a pretrained study and an open study over them, made once per process."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.retrieval.experiment import RetrievalStudy
from tests.experiments.retrieval.small_retrieval import opened, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sets in miniature and a finished masked study ``runs/small``."""
    folder = tmp_path_factory.mktemp("retrieval")
    write_world(folder)
    return folder


@pytest.fixture(scope="session")
def study(world: Path) -> RetrievalStudy:
    return opened(world)
