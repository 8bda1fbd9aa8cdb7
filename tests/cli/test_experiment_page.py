"""The experiment of CONTRIBUTING.md and the page on study.json: extracted, run, and held to what a study holds."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from arch_lab import compare
from arch_lab.cli import main
from arch_lab.study import Study
from tests.cli.terminals import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUICK = ["budget.tokens=2048", "learning_rates=[0.01]", "seeds=[0,1]"]


def block(kind: str, text: str) -> str:
    """The fenced block of a kind that holds a text."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    (match,) = [code for code in blocks if text in code]
    return match


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the two files and the study of the page, on the import path."""
    package = tmp_path / "echo_package"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "experiment.py").write_text(
        block("python", "class Echo(TrainingExperiment)"), encoding="utf-8"
    )
    (package / "model.py").write_text(block("python", "class EchoModel(LanguageModel)"), encoding="utf-8")
    (tmp_path / "echo.yaml").write_text(block("yaml", "echo_package"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "echo_package"]:
        del sys.modules[name]


def test_the_experiment_of_the_page_is_planned_as_it_stands(echo: Path) -> None:
    assert main(["plan", "echo.yaml"]) == 0


def test_the_experiment_of_the_page_runs_from_certificate_to_report(echo: Path) -> None:
    study = compare("echo.yaml", overrides=QUICK, quiet=True)
    assert [record.status for record in study.results] == ["finished"] * 4
    assert study.primary.higher_is_better and study.baselines[0].name == "guess"
    folder = echo / "runs/echo"
    assert all((folder / "certificates" / f"{arm}.json").is_file() for arm in ("gemma3", "m2_gpt"))
    assert "echo accuracy" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_experiment_of_the_page_prints_a_table_for_a_readme(
    echo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare("echo.yaml", overrides=QUICK, quiet=True)
    assert main(["report", "runs/echo", "--markdown", "--trust", "echo_package"]) == 0
    assert "echo accuracy" in capsys.readouterr().out


def test_the_page_on_study_json_names_every_key() -> None:
    page = (ROOT / "docs/study_json.md").read_text(encoding="utf-8")
    missing = [field.name for field in fields(Study) if f"`{field.name}`" not in page]
    assert not missing
