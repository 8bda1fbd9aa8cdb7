"""The data options of ``fit`` are the keys of a study's ``data:`` block."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
import yaml

from arch_lab import cli
from arch_lab.data import DataConfig
from arch_lab.training.datamodule import TextDataModule
from tests.small_fit import MODEL, TRAINER, failure_of, scores_of, small_fit
from tests.small_study import small_study

Capture = pytest.CaptureFixture[str]
SIZES = ["--data.sequence_length=16", "--data.batch_size=4", "--data.steps=2", *MODEL, *TRAINER]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small_fit(tmp_path)
    return tmp_path


def test_fit_has_every_data_key_of_a_study() -> None:
    assert {field.name for field in dataclasses.fields(DataConfig)} <= set(
        inspect.signature(TextDataModule).parameters
    )


def test_the_data_block_of_a_study_is_a_configuration_of_fit(folder: Path, capsys: Capture) -> None:
    data = yaml.safe_load(small_study(folder).read_text())["data"]
    (folder / "fit.yaml").write_text(yaml.safe_dump({"data": data}))
    assert scores_of(capsys, "fit", "--config=fit.yaml", *SIZES)["steps"] == 2


def test_the_old_keys_are_read_and_the_new_ones_named(capsys: Capture) -> None:
    old = [
        "--data.source=files",
        "--data.train",
        "train.jsonl",
        "--data.tokenizer",
        "bpe",
        "--data.vocabulary",
        "300",
    ]
    assert cli.main(["fit", *old, *SIZES]) == 0
    printed = capsys.readouterr()
    for new in ("files.train", "tokenizer.kind", "tokenizer.vocabulary"):
        assert f"is now --data.{new}" in printed.err
    config = yaml.safe_load(Path("runs/fit/version_0/config.yaml").read_text())
    assert config["data"]["files"] == {"train": "train.jsonl"} and config["data"]["tokenizer"] == {
        "kind": "bpe",
        "vocabulary": 300,
    }


def test_an_old_configuration_is_read_and_the_new_keys_named(folder: Path, capsys: Capture) -> None:
    old = {
        "source": "files",
        "train": "train.jsonl",
        "hub_name": None,
        "tokenizer": "bytes",
        "vocabulary": 1024,
        "tokenizer_path": None,
    }
    (folder / "old.yaml").write_text(yaml.safe_dump({"data": old}))
    assert cli.main(["fit", "--config", "old.yaml", *SIZES]) == 0
    assert "note: data.train is now data.files.train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "part"),
    [
        (["--data.train", "train.jsonl"], "source 'files' and the option 'files' go together"),
        (["--data.hub.name", "wikitext"], "source 'hub' and the option 'hub' go together"),
        (["--data.source=files"], "source 'files' and the option 'files' go together"),
        (["--data.tokenizer.kind=bytes", "--data.tokenizer.vocabulary=300"], "bytes have 257 entries"),
        (["--data.source=files", "--data.files.trian=train.jsonl"], "did you mean 'train'?"),
        (["--data.source=fiels", "--data.files.train=train.jsonl"], "did you mean 'files'?"),
    ],
)
def test_an_option_that_the_source_ignores_is_an_error(option: list[str], part: str, capsys: Capture) -> None:
    assert part in failure_of(capsys, "fit", *option, *SIZES)


def test_the_help_of_data_lists_the_keys_below_files_hub_and_tokenizer(capsys: Capture) -> None:
    assert cli.main(["fit", "--data.help"]) == 0
    listed = capsys.readouterr().out
    assert all(
        f"--data.{key} " in listed
        for key in ("files.validation", "hub.subset", "tokenizer.path", "text_column", "limit_bytes")
    )
