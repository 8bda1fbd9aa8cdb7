"""What several tests of the command line share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import stored


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a finished study of two arms, one of them with a block of the user's own."""
    folder = tmp_path_factory.mktemp("finished")
    stored.write_block(folder)
    stored.write_study(folder)
    done = stored.compare(folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of ``finished_once`` to change; the study names its own text, so the copy reads the same data."""
    folder = tmp_path / "work"
    shutil.copytree(finished_once, folder)
    stored.forget()
    yield folder
    stored.forget()
