"""What a study over tasks shows: results.csv, the page, markdown, the terminal."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import arch_lab
from arch_lab.cli import main
from arch_lab.study.study import Study
from tests.study.formula import write_study


@dataclass
class Shown:
    """A finished study, and what the terminal showed of it."""

    folder: Path
    study: Study
    out: str
    err: str


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("shown")
    capture: Any = pytest.MonkeyPatch()
    out, err = folder / "out.txt", folder / "err.txt"
    with out.open("w") as output, err.open("w") as error, capture.context() as patch:
        patch.setattr("sys.stdout", output)
        patch.setattr("sys.stderr", error)
        study = arch_lab.compare(str(write_study(folder)), output=folder / "runs")
    return Shown(folder / "runs/formula", study, out.read_text(), err.read_text())


def test_results_csv_holds_every_fit_and_marks_the_chosen_ones(shown: Shown) -> None:
    with (shown.folder / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(shown.study.results)
    assert sum(row["selected"] == "1" for row in rows if row["arm"] == "strong") == 9


def test_the_page_says_the_verdict_and_what_is_left_out_and_loads_nothing(shown: Shown) -> None:
    page = (shown.folder / "report.html").read_text(encoding="utf-8")
    assert "strong is better than" in page and "qqp is left out" in page
    assert "lr-0.004_seed-1" in page  # a note of the experiment
    assert not re.search(r"(src|href)=.https?://", page)


def test_the_terminal_shows_the_fits_the_tables_and_the_verdict(shown: Shown) -> None:
    assert "easy: closed seed 0: 0.5500 accuracy" in shown.err
    assert "verdict" in shown.out and "left out: no train.tsv in QQP" in shown.out


def test_a_report_is_written_again_and_printed_as_markdown(
    shown: Shown, capsys: pytest.CaptureFixture[str]
) -> None:
    (shown.folder / "report.html").unlink()
    assert main(["report", str(shown.folder)]) == 0
    assert (shown.folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    capsys.readouterr()
    assert main(["report", str(shown.folder), "--markdown"]) == 0
    text = capsys.readouterr().out
    assert "| easy | strong | 0.910 ± 0.025" in text or "| strong | 0.910 ± 0.025" in text
    assert "arch-lab compare" in text
