"""``arch-lab report``: one page of several studies, an index of all, and the other forms of every kind of study."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from arch_lab.cli import main
from arch_lab.judge.judge import judge
from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.records import Record
from arch_lab.report.page import write_page
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.study import Study, study_of
from tests.arch_lab.report.shapes import SHAPES
from tests.study_fixture import write_study

ACCURACY = Measure(key="accuracy", name="accuracy", higher_is_better=True, meaning="Share of right answers.")


def task_study() -> Study:
    """Two tasks, two arms and a baseline."""
    tasks = tuple(
        Task(name=name, measures=(ACCURACY,), counted=("accuracy",), facts={"rows": 80})
        for name in ("sst2", "rte")
    )
    arms = (
        PlannedArm(name="a"),
        PlannedArm(name="b"),
        PlannedArm(name="majority", tuned=False, seeded=False, baseline=True),
    )
    rates, seeds = (0.1, 0.2), (0, 1, 2)
    records = [
        Record(
            task=task.name,
            arm=arm,
            learning_rate=rate,
            seed=seed,
            tuned=0.6 + rate,
            scores={"accuracy": 0.7 + offset + 0.01 * seed},
        )
        for task in tasks
        for arm, offset in (("a", 0.0), ("b", 0.1))
        for rate in rates
        for seed in seeds
    ]
    records += [Record(task=task.name, arm="majority", scores={"accuracy": 0.5}) for task in tasks]
    plan = Plan(
        study="tasks",
        experiment="glue",
        tasks=tasks,
        arms=arms,
        learning_rates=rates,
        seeds=seeds,
        tuning_seeds=seeds,
        trials=len(records),
    )
    return study_of(plan, judge(records, tasks, arms), records, command="arch-lab compare tasks")


def printed(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == code
    shown = capsys.readouterr()
    return shown.out if code == 0 else shown.err


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("first", "second"):
        write_study(tmp_path / name, **SHAPES["one arm"], name=name)
    (tmp_path / "third").mkdir()
    (tmp_path / "third/plan.json").write_text(json.dumps({"study": "third", "trials": 4}))
    return tmp_path


def test_several_studies_go_on_one_page_with_links_of_their_own(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = runs / "both.html"
    assert printed(capsys, "report", runs / "first", runs / "second", "--output", page) == f"{page}\n"
    text = page.read_text()
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and {"1-results", "2-results"} <= set(ids)
    assert 'href="first/study.json"' in text and 'href="second/results.csv"' in text


def test_several_studies_without_a_file_for_the_page_are_refused(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "add --output FILE.html" in printed(capsys, "report", runs / "first", runs / "second", code=2)
    assert "--json takes one study" in printed(
        capsys, "report", runs / "first", runs / "second", "--json", code=2
    )


def test_a_folder_of_studies_gets_an_index_with_states_and_links(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(capsys, "report", runs / "first")
    assert printed(capsys, "report", runs) == f"{runs / 'index.html'}\n"
    text = (runs / "index.html").read_text()
    assert '<a href="first/report.html">first</a>' in text and "second</th>" in text
    assert text.count(">finished</td>") == 2 and ">interrupted</td>" in text and "0/4" in text


def test_curves_of_a_study_without_any_are_one_clear_line(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (runs / "first").glob("runs/**/metrics.jsonl"):
        path.unlink()
    message = printed(capsys, "report", runs / "first", "--curves", runs / "c.svg", code=2)
    assert (
        "no trial left a curve to draw" in message
        and message.count("\n") == 1
        and not (runs / "c.svg").exists()
    )


def test_curves_have_a_panel_per_arm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", exponents=(-9, -8), diverged=())
    printed(capsys, "report", folder, "--curves", tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert text.count(">gemma3<") == text.count(">m2_gpt<") == 1
    assert "training loss" in text and "tuning bits per byte" in text


def test_a_study_of_tasks_is_shown_by_the_same_page(tmp_path: Path) -> None:
    text = write_page(tmp_path, task_study()).read_text()
    for words in (
        "sst2, accuracy ↑",
        "average ↑",
        "Task rte",
        "majority (baseline)",
        "Share of right answers.",
    ):
        assert words in text
    assert "b is better than a" in text and (tmp_path / "scores.png").is_file()


def test_an_older_result_folder_is_one_clear_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((runs / "first/study.json").read_text())
    from arch_lab import sealed

    sealed.write(runs / "first/study.json", {**content, "version": 1})
    for options in ([], ["--json"], ["--markdown"]):
        message = printed(capsys, "report", runs / "first", *options, code=2)
        assert "written by arch-lab 0.1.0" in message and message.count("\n") == 1
    assert "first: outdated" in printed(capsys, "show", runs / "first")
