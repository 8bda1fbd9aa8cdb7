"""docs/data.md: every block it shows is run as printed."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import yaml

from arch_lab.cli import main
from arch_lab.data import DataConfig, prepare
from arch_lab.data.formats import COMPRESSED, FOLDER_SUFFIXES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [content for name, content in fenced if name == language]


STUDY, HUB = blocks("yaml")
SAVE, PYTHON = blocks("python")
COMMANDS = [line for block in blocks("") for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page speaks of, in the current folder."""
    corpus = tmp_path / "corpus"
    texts = [topics[key] for key in sorted(topics)[:40]]
    for number, text in enumerate(texts[:30]):
        file = corpus / ("texts" if number % 2 else "more/deep") / f"{number}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (corpus / "notes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[30:37]))
    (corpus / "heldout.txt.gz").write_bytes(gzip.compress("\n".join(texts[37:]).encode()[:20_000]))
    (tmp_path / "my_text.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARCH_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_the_data_block_of_the_study_is_prepared(folder):
    data = prepare(DataConfig.from_options(yaml.safe_load(STUDY)["data"]), folder / "cache")
    assert data.train.documents + data.tune.documents == 30 + 7 and data.validation.documents == 1


def test_the_saved_dataset_is_prepared(folder):
    exec(SAVE, {})
    data = prepare(DataConfig.from_options(yaml.safe_load(HUB)["data"]), folder / "cache")
    assert data.validation.documents == 9 and data.train.documents + data.tune.documents == 200


def test_the_python_example_runs(folder, capsys):
    exec(PYTHON, {})
    assert str(list(b"one text")) in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=[pytest.mark.slow] * ("compare" in each)) for each in COMMANDS]
)
def test_each_command_ends_well(folder, command, capsys):
    assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err


def test_every_suffix_that_folders_are_read_for_is_listed():
    assert [suffix for suffix in (*FOLDER_SUFFIXES, *COMPRESSED) if f"`{suffix}`" not in PAGE] == []
