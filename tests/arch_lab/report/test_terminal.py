"""The lines of a study in a pipe: counters, trials of an earlier call, outcomes, time left."""

from __future__ import annotations

import re
from typing import Any

import pytest

from arch_lab.judge.records import DIVERGED, Record
from arch_lab.report.terminal import Terminal
from tests.study_fixture import make_study

LABELS = [f"{arm} lr 0.1 seed {seed}" for seed in (0, 1) for arm in ("gemma3", "m2_gpt")]


def jobs(terminal: Terminal, labels: list[str], after: int, workers: int = 1) -> None:
    terminal("jobs", {"labels": labels, "work": [1.0] * len(labels), "workers": workers, "after": after})


def run(terminal: Terminal, label: str, *, status: str = "finished", wall: float = 100.0) -> None:
    facts: dict[str, Any] = {"label": label, "arm": label.split()[0], "work": 1.0}
    terminal("run", facts)
    terminal("step", {**facts, "step": 1, "steps": 2, "loss": 3.0})
    records = [Record(arm=label.split()[0], status=status)]
    terminal("ran", {**facts, "records": records, "wall": wall, "text": "1.2345 bits per byte"})


@pytest.fixture
def terminal() -> Any:
    watching = Terminal()
    yield watching
    watching.close()


def test_one_counter_runs_over_all_batches(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    jobs(terminal, LABELS[:2], after=2)
    for label in LABELS[:2]:
        run(terminal, label)
    jobs(terminal, LABELS[2:], after=0)
    for label in LABELS[2:]:
        run(terminal, label)
    assert re.findall(r"^\[(\d)/4\]", capsys.readouterr().err, flags=re.M) == ["1", "2", "3", "4"]


def test_a_widened_grid_raises_the_count(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    jobs(terminal, LABELS[:2], after=2)
    for label in LABELS[:2]:
        run(terminal, label)
    terminal("widen", {"task": "", "learning_rates": [0.2]})
    jobs(terminal, ["gemma3 lr 0.2 seed 0", "m2_gpt lr 0.2 seed 0"], after=2)
    run(terminal, "gemma3 lr 0.2 seed 0")
    text = capsys.readouterr().err
    assert "adding 0.2 for every arm" in text and "[3/6] gemma3 lr 0.2 seed 0" in text


def test_time_left_counts_the_trials_of_later_phases(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs(terminal, LABELS[:2], after=2)
    run(terminal, LABELS[0])
    assert capsys.readouterr().err.endswith("1.2345 bits per byte (1 min 40 s); about 5 min 00 s left\n")


def test_the_last_trial_leaves_no_time(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    jobs(terminal, LABELS[:1], after=0)
    run(terminal, LABELS[0])
    assert "left" not in capsys.readouterr().err


def test_trials_of_an_earlier_call_share_a_line(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs(terminal, LABELS, after=0)
    for label in LABELS[:3]:
        terminal("kept", {"label": label, "arm": "gemma3", "work": 1.0, "records": []})
    run(terminal, LABELS[3])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "[1-3/4] kept from an earlier call" and lines[1].startswith(f"[4/4] {LABELS[3]}")


def test_a_diverged_trial_is_called_so(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    jobs(terminal, LABELS, after=0)
    run(terminal, LABELS[0], status=DIVERGED)
    assert f"{LABELS[0]}: diverged (" in capsys.readouterr().err


def test_two_trials_at_a_time_have_lines_of_their_own(terminal: Terminal) -> None:
    jobs(terminal, LABELS, after=0, workers=2)
    for label in LABELS[:2]:
        terminal("run", {"label": label, "arm": "gemma3", "work": 1.0})
    assert terminal.line_of == {LABELS[0]: 0, LABELS[1]: 1}


def test_the_report_ends_with_the_verdict_and_the_two_places(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study()
    terminal("report", {"study": study, "report": "runs/s/report.html", "folder": "runs/s"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:] == [
        f"verdict: {study.verdict.text}",
        f"         {study.verdict.limits}",
        "report:       runs/s/report.html",
        "tensorboard:  tensorboard --logdir runs/s",
    ]


def test_an_unknown_event_is_not_shown(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    terminal("heartbeat", {"worker": 3})
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""
