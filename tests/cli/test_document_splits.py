"""Where documents begin and how much of them is kept."""

from __future__ import annotations

import time

import pytest

from arch_lab.data import DataConfig, DataError, prepare


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "^(a*)*x"])
def test_a_document_start_that_backtracks_without_end_is_refused(tmp_path, pattern):
    (tmp_path / "a.txt").write_text(("a" * 60 + "b!\n") * 50)
    options = {
        "source": "files",
        "root": str(tmp_path),
        "files": {"train": "a.txt"},
        "document_start": pattern,
    }
    start = time.process_time()
    with pytest.raises(
        DataError, match=r"a\.txt( line 1: matching document_start .* backtracks too much|: no line matches)"
    ):
        prepare(DataConfig.from_options(options), tmp_path / "cache")
    assert time.process_time() - start < 5


def test_a_limit_holds_for_all_that_is_made_of_the_training_text(tmp_path):
    for number in range(200):
        (tmp_path / f"{number:03}.txt").write_text(f"Document {number} of many. " * 40)
    options = {
        "source": "files",
        "root": str(tmp_path),
        "files": {"train": "*.txt"},
        "tokenizer": {"kind": "bytes"},
    }
    data = prepare(DataConfig.from_options({**options, "limit_bytes": 40_000}), tmp_path / "cache")
    assert data.train.bytes + data.tune.bytes + data.validation.bytes == 40_000
    assert all(0.02 < split.bytes / 40_000 < 0.1 for split in (data.tune, data.validation))
