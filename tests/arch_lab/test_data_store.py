"""Prepared data: stored once, verified at every opening, never used when damaged."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from arch_lab.data import DataConfig, DataError, prepare, store
from arch_lab.data.documents import Counts
from arch_lab.data.store import open_split, write_split


@pytest.fixture
def options(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    text = "".join(f"# part {i}\nThe quick brown fox, number {i}, ate {i * i} fish.\n" for i in range(60))
    (folder / "train.txt").write_text(text, encoding="utf-8")
    tokenizer = {"kind": "bpe", "vocabulary": 300}
    return {
        "source": "files",
        "root": str(folder),
        "files": {"train": "train.txt"},
        "document_start": "^#",
        "tokenizer": tokenizer,
    }


def test_the_second_call_reads_no_text(options, tmp_path):
    first = prepare(DataConfig.from_options(options), tmp_path / "cache")
    lines: list[str] = []
    second = prepare(DataConfig.from_options(options), tmp_path / "cache", lines.append)
    assert lines == []
    assert second.fingerprint == first.fingerprint and np.array_equal(second.train.ids, first.train.ids)


@pytest.mark.parametrize("mapped", [False, True])
def test_ids_take_two_bytes_each_and_large_splits_are_mapped(options, tmp_path, mapped, monkeypatch):
    monkeypatch.setattr(store, "MAPPED_FROM", 0 if mapped else store.MAPPED_FROM)
    data = prepare(DataConfig.from_options(options), tmp_path / "cache")
    assert isinstance(data.train.ids, np.memmap) == mapped and data.train.ids.dtype == np.uint16
    assert not data.train.ids.flags.writeable


def test_large_vocabularies_are_stored_in_four_bytes(tmp_path):
    ids = np.array([0, 70_000], np.uint32)
    seal = write_split(tmp_path, "train", ids, Counts(1, 2, 3), "f")
    assert np.array_equal(open_split(tmp_path, "train", "f", seal).ids, ids)


def test_equal_data_has_one_fingerprint_wherever_it_lies(options, tmp_path):
    data = prepare(DataConfig.from_options(options), tmp_path / "cache")
    moved = tmp_path / "elsewhere"
    (tmp_path / "data").rename(moved)
    assert (
        prepare(DataConfig.from_options({**options, "root": str(moved)}), tmp_path / "other").fingerprint
        == data.fingerprint
    )


def test_a_changed_text_changes_the_fingerprint(options, tmp_path):
    before = prepare(DataConfig.from_options(options), tmp_path / "cache")
    file = tmp_path / "data" / "train.txt"
    file.write_text(file.read_text() + "# one more\nAnd a last line.\n")
    assert prepare(DataConfig.from_options(options), tmp_path / "cache").fingerprint != before.fingerprint


@pytest.mark.parametrize("name", ["train.bin", "train.json", "validation.bin", "tokenizer.json", "data.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_cache_is_built_again_with_one_warning(options, tmp_path, name, damage, caplog):
    first = prepare(DataConfig.from_options(options), tmp_path / "cache")
    file = next((tmp_path / "cache").glob(f"*/{name}"))
    raw = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(raw[: len(raw) // 2])
    elif damage == "flip":
        file.write_bytes(raw[:20] + bytes([raw[20] ^ 1]) + raw[21:])
    with caplog.at_level(logging.WARNING):
        again = prepare(DataConfig.from_options(options), tmp_path / "cache")
    assert again.fingerprint == first.fingerprint and file.read_bytes() == raw
    # without the file that is written last the build counts as never finished
    assert len(caplog.records) == (0 if (name, damage) == ("data.json", "remove") else 1)


def test_no_part_files_are_left_behind(options, tmp_path):
    prepare(DataConfig.from_options(options), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_cache_that_cannot_be_written_ends_in_one_line(options, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="cannot write the data cache") as refusal:
        prepare(DataConfig.from_options(options), tmp_path / "cache")
    assert "\n" not in str(refusal.value)


def test_a_split_too_short_for_a_batch_names_itself_and_both_numbers(options, tmp_path):
    data = prepare(DataConfig.from_options(options), tmp_path / "cache")
    with pytest.raises(DataError, match=f"tune split has {data.tune.tokens} tokens.*1000001"):
        data.tune.require(1_000_001)


def test_a_split_that_is_not_there_is_refused_by_name(options, tmp_path):
    data = prepare(DataConfig.from_options(options), tmp_path / "cache")
    with pytest.raises(DataError, match="no test split"):
        data.split("test")


def test_the_summary_counts_what_the_splits_hold(options, tmp_path):
    data = prepare(DataConfig.from_options(options), tmp_path / "cache")
    summary = data.summary()
    text = (tmp_path / "data" / "train.txt").read_text()
    assert sum(split["bytes"] for split in summary["splits"].values()) == len(text.encode())
    assert sum(split["words"] for split in summary["splits"].values()) == len(text.split())
    assert sum(split["documents"] for split in summary["splits"].values()) == 60
    assert summary["tokenizer"]["vocabulary"] == 300


def test_the_tokens_of_a_split_hold_exactly_its_bytes(options, tmp_path):
    data = prepare(DataConfig.from_options(options), tmp_path / "cache")
    for split in (data.train, data.tune, data.validation):
        assert int(data.token_bytes[split.ids].sum()) == split.bytes
