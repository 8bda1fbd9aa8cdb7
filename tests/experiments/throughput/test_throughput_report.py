"""The report of a throughput study in the terminal, on the page and as Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from arch_lab.cli import main
from arch_lab.report import figures
from arch_lab.study.study import Study
from experiments.throughput.experiment import EXPERIMENT
from tests.experiments.throughput.speed_study import GROUPS

Timed = tuple[Path, Study]


def test_the_tables_cover_speed_memory_and_utilisation(timed: Timed) -> None:
    titles = [table.title for section in EXPERIMENT.sections(timed[1]) for table in section.tables]
    assert len(titles) == 2 + 3 + GROUPS + 3  # arms, crossovers; ratios by level; speeds; memory and the like
    for part in ("what was compared", "m2_gpt is faster", "peak memory", "decoding state", "utilisation"):
        assert any(part in title for title in titles)


def test_every_row_of_a_table_is_as_long_as_its_head(timed: Timed) -> None:
    for section in EXPERIMENT.sections(timed[1]):
        for table in section.tables:
            assert {len(row) for row in table.rows} == {len(table.headers)}


def test_every_figure_can_be_drawn(timed: Timed) -> None:
    drawings = [drawing for section in EXPERIMENT.sections(timed[1]) for drawing in section.drawings]
    assert [drawing.file for drawing in drawings] == ["ratios.png", "throughput.png", ""]
    with figures.looks():
        assert all(drawing.draw().axes for drawing in drawings)


def test_a_sentence_says_what_a_group_gave(timed: Timed) -> None:
    study = EXPERIMENT.open(EXPERIMENT.config.from_options(config_of(timed)))
    first = [record for record in timed[1].results if record.task == timed[1].tasks[0].name]
    text = study.outcome(first, timed[1])
    assert text.startswith("gemma3 ") and ", m2_gpt " in text and text.endswith(" tokens/s")


def config_of(timed: Timed) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load((timed[0] / "runs/throughput/study.yaml").read_text())
    return content


def test_report_writes_the_page_again(timed: Timed) -> None:
    page = timed[0] / "runs/throughput/report.html"
    text = page.read_text()
    page.unlink()
    assert main(["report", str(page.parent)]) == 0
    assert len(page.read_text()) == len(text)


def test_the_markdown_of_a_study_has_its_verdict_command_and_tables(
    timed: Timed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(timed[0] / "runs/throughput"), "--markdown"]) == 0
    text = capsys.readouterr().out
    assert timed[1].verdict.text in text and timed[1].command in text
    assert len([part for part in text.split("\n\n") if part.startswith("|")]) == 2 + 3 + GROUPS + 3
