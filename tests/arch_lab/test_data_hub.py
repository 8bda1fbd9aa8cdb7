"""The hub: local copies load, and what cannot be reached says so at once."""

from __future__ import annotations

import json
import time

import pytest

from arch_lab.data import DataConfig, DataError
from arch_lab.data.hub import read_hub

datasets = pytest.importorskip("datasets")
DOCUMENTS = [f"document {i} é" for i in range(6)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


def config(root, **hub):
    return DataConfig.from_options(
        {"source": "hub", "root": str(root), "hub": hub, "tokenizer": {"kind": "bytes"}}
    )


def saved(root):
    dataset = datasets.Dataset.from_dict({"text": DOCUMENTS})
    datasets.DatasetDict({"train": dataset, "held": dataset.select([0])}).save_to_disk(str(root / "saved"))


def test_a_saved_dataset_is_read_from_its_folder(tmp_path):
    saved(tmp_path)
    splits = read_hub(config(tmp_path, name="saved", validation="held"))
    assert splits == {"train": DOCUMENTS, "validation": DOCUMENTS[:1]}


def test_an_unknown_split_names_the_nearest(tmp_path):
    saved(tmp_path)
    with pytest.raises(DataError, match="did you mean 'train'"):
        read_hub(config(tmp_path, name="saved", train="trian"))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_local_file_is_read_up_to_the_limit(tmp_path, streaming):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    assert read_hub(config(tmp_path, name="rows.jsonl", streaming=streaming, limit_documents=4)) == {
        "train": DOCUMENTS[:4]
    }


def refused_at_once(root):
    start = time.monotonic()
    with pytest.raises(DataError, match=r"'files'.*'embedded'") as refusal:
        read_hub(config(root, name="some/dataset"))
    assert time.monotonic() - start < 6  # the client's own retries take above 20 seconds
    return str(refusal.value)


def test_offline_mode_is_refused_at_once_with_the_alternatives(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refused_at_once(tmp_path)


def test_a_silent_hub_is_refused_at_once_with_the_alternatives(tmp_path, monkeypatch):
    for variable in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    assert "does not answer" in refused_at_once(tmp_path)
