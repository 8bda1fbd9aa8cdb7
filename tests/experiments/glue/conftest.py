"""The pretrained study and the files that the tests of this folder read, made once per process."""

from __future__ import annotations

import pytest

from tests.experiments.glue.small_glue import Made, glue_files, pretrained


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """(pretrained study, data root)"""
    folder = tmp_path_factory.mktemp("glue")
    return pretrained(folder), glue_files(folder)
