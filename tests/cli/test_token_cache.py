"""The cache of token ids: what is damaged, changed or odd in it is made again, and never scored."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from arch_lab.data import DataConfig, prepare


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    text = "".join(f"# part {i}\nThe quick brown fox, number {i}, ate {i * i} fish.\n" for i in range(60))
    (tmp_path / "text.txt").write_text(text)
    files = {"root": str(tmp_path), "files": {"train": "text.txt"}, "document_start": "^#"}
    return DataConfig.from_options({"source": "files", "tokenizer": {"kind": "bytes"}, **files})


def cached(folder: Path, name: str) -> Path:
    return next((folder / "cache").glob(f"files-*/{name}"))


def test_a_changed_byte_count_never_reaches_a_score(config, tmp_path, caplog):
    bytes_before = prepare(config, tmp_path / "cache").validation.bytes
    sidecar = cached(tmp_path, "validation.json")
    sidecar.write_text(re.sub(r'"bytes": \d+', '"bytes": 9999', sidecar.read_text()))
    assert prepare(config, tmp_path / "cache").validation.bytes == bytes_before
    assert [record.message.count("\n") for record in caplog.records] == [0]


ODD = [
    b"",
    b"{}",
    b"null",
    b"[" * 100_000,
    b'{"key": ' * 50_000,
    b"\xff\xfe",
    b"\x00" * 99,
    b'{"sha256": 1e999}',
    b"9" * 10_000,
]


@pytest.mark.parametrize("name", ["data.json", "train.json", "tokenizer_kind.json"])
def test_an_odd_sidecar_is_made_again_with_one_line(config, tmp_path, name, caplog):
    first = prepare(config, tmp_path / "cache")
    good = cached(tmp_path, name).read_bytes()
    for odd in ODD:
        cached(tmp_path, name).write_bytes(odd)
        caplog.clear()
        assert prepare(config, tmp_path / "cache").fingerprint == first.fingerprint
        assert cached(tmp_path, name).read_bytes() == good
        assert len(caplog.records) == 1 and "\n" not in caplog.records[0].message


def test_other_splits_in_the_manifest_are_noticed(config, tmp_path):
    first = prepare(config, tmp_path / "cache")
    manifest = cached(tmp_path, "data.json")
    content = json.loads(manifest.read_text())
    content["about"]["source"] = "another"
    manifest.write_text(json.dumps(content))
    assert prepare(config, tmp_path / "cache").about == first.about


def test_a_file_that_is_cut_or_overwritten_while_in_use_changes_nothing(config, tmp_path):
    data = prepare(config, tmp_path / "cache")
    ids = np.array(data.train.ids)
    file = cached(tmp_path, "train.bin")
    with file.open("r+b") as handle:
        handle.write(b"\xff" * 64)
        handle.flush()
        os.truncate(file, 10)  # a mapped file would end the process here
    assert np.array_equal(data.train.ids, ids)
    assert np.array_equal(prepare(config, tmp_path / "cache").train.ids, ids)
