"""GLUE from a local copy of the hub's dataset: the rows of the files, and no waiting for a network that is not there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from arch_lab.data import DataError
from experiments.glue.data import read_sets
from experiments.glue.hub import read_glue_hub
from experiments.glue.reader import read_glue
from tests.experiments.glue.small_glue import config, write

datasets = pytest.importorskip("datasets")
ROWS = {"sentence1": ["a", "c"], "sentence2": ["b", "d"], "label": [1, 0], "idx": [0, 1]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def saved(root: Path, **splits: dict[str, list[object]]) -> None:
    made = {name: datasets.Dataset.from_dict(columns) for name, columns in splits.items()}
    datasets.DatasetDict(made).save_to_disk(str(root / "copy/rte"))


def test_a_saved_copy_gives_the_rows_of_the_files(tmp_path: Path) -> None:
    saved(tmp_path, train=ROWS, validation=ROWS, test={**ROWS, "label": [-1, -1]})
    write(
        tmp_path,
        "RTE/dev.tsv",
        ["index\tsentence1\tsentence2\tlabel", "0\ta\tb\tnot_entailment", "1\tc\td\tentailment"],
    )
    assert read_glue_hub("rte", "dev", dataset="copy", root=tmp_path, rows=2) == read_glue(
        "rte", "dev", tmp_path / "glue"
    )
    assert [row.label for row in read_glue_hub("rte", "test", dataset="copy", root=tmp_path)] == [None, None]


def test_a_copy_of_the_repository_is_read_by_its_configurations(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "rte").mkdir(parents=True)
    datasets.Dataset.from_dict(ROWS).to_parquet(str(repository / "rte/validation-00000-of-00001.parquet"))
    readme = "---\nconfigs:\n- config_name: rte\n  data_files:\n  - split: validation\n    path: rte/validation-*\n---\n"
    (repository / "README.md").write_text(readme)
    assert [row.text for row in read_glue_hub("rte", "dev", dataset="repository", root=tmp_path)] == [
        "a",
        "c",
    ]


def test_what_is_wrong_with_a_copy_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path, train={**ROWS, "label": [1, 2]}, validation=ROWS)
    with pytest.raises(
        DataError, match=r"'copy', rte, train row 1: label 2 is not one of entailment, not_entailment"
    ):
        read_glue_hub("rte", "train", dataset="copy", root=tmp_path)
    with pytest.raises(DataError, match="2 rows, expected 277"):
        read_glue_hub("rte", "dev", dataset="copy", root=tmp_path, rows=277)
    with pytest.raises(DataError, match="has no split 'test'"):
        read_glue_hub("rte", "test", dataset="copy", root=tmp_path)
    with pytest.raises(DataError, match="did you mean 'dev'"):
        read_glue_hub("rte", "dve", dataset="copy", root=tmp_path)
    with pytest.raises(DataError, match="not on the hub"):
        read_glue_hub("mnli_subset", "train")


def test_a_study_reads_its_sets_from_a_local_copy(tmp_path: Path) -> None:
    many = {
        "sentence1": [f"premise {i}" for i in range(30)],
        "sentence2": ["so"] * 30,
        "label": [i % 2 for i in range(30)],
    }
    saved(tmp_path, train=many, validation=ROWS)
    data = {"source": "hub", "hub": "copy", "incomplete": ["rte"]}
    found, absent = read_sets(
        config(Path("no-study"), tmp_path, tasks=["rte", "cola"], data=data), lambda _: None
    )
    assert (len(found["rte"].train), len(found["rte"].tuning), len(found["rte"].reported["dev"])) == (
        27,
        3,
        2,
    )
    assert "no split 'test'" in found["rte"].facts["no_submission"] and "cola" in absent


def test_out_of_reach_is_said_at_once_with_the_way_round(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(
        DataError, match=r"HF_HUB_OFFLINE is set .*; use source 'files' with a copy of GLUE on disk"
    ):
        read_glue_hub("rte", "dev", root=tmp_path)
    assert time.monotonic() - start < 6  # the client's own retries take above 20 seconds
