"""The terminal's tables, the CSV and the words for numbers, on studies of every awkward shape."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from arch_lab import units
from arch_lab.judge.records import Interval
from arch_lab.report import load, render_plan, render_results
from arch_lab.report.tables import results_csv
from arch_lab.study.plan import Estimate, Plan
from tests.arch_lab.report.shapes import SHAPES
from tests.study_fixture import make_study

Folders = dict[str, Path]


def rendered(show: Callable[..., None], study: Any, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    show(study, console)
    return console.export_text()


@pytest.mark.parametrize("shape", SHAPES)
def test_results_fit_a_hundred_columns_without_clipping(shape: str, folders: Folders) -> None:
    study = load(folders[shape])
    text = rendered(render_results, study)
    assert "…" not in text and max(map(len, text.splitlines())) <= 100
    for arm in study.arms:
        assert text.count(arm.name) >= 4  # results, size, cost, learning rates: whole in each


def test_terminal_shows_interval_baselines_and_divergence(folders: Folders) -> None:
    text = rendered(render_results, load(folders["ordinary"]))
    assert re.search(r"gemma3 .*1\.93\d ± 0\.0\d+ .*unigram, bigram, trigram", text)
    assert "×3/3" in text and "trigram " in text


def test_the_plan_needs_no_results() -> None:
    study = make_study(exponents=(-10, -9))
    estimate = Estimate(seconds_per_trial=500.0, memory_bytes=3e8)
    arms = tuple(replace(arm, estimate=estimate) for arm in study.arms)
    planned = Plan(**{field.name: getattr(study, field.name) for field in fields(Plan)})
    text = rendered(render_plan, replace(planned, arms=arms, learning_rates=(0.001, 0.002), trials=8))
    assert "trials: 8 (arms 2, learning rates 2 (0.001, 0.002), seeds 3; not every seed" in text
    assert "about 1 h 06 min" in text and "8 min 20 s" in text and "286 MiB" in text and "…" not in text


def test_the_plan_of_a_missed_budget_names_what_misses(folders: Folders) -> None:
    text = rendered(render_plan, load(folders["four arms, budget missed"]))
    assert "NOT matched" in text and "arm 'm2_gpt' is +3.00% off" in text


def test_the_csv_has_a_row_per_run() -> None:
    rows = list(csv.DictReader(io.StringIO(results_csv(make_study()))))
    assert len(rows) == 30 and [r["bits_per_byte"] for r in rows if r["status"] == "diverged"] == ["", "", ""]
    assert sum(int(r["selected"]) for r in rows) == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.short(1_234_567), "1.23M"),
        (units.short(999_600, "FLOP"), "1 MFLOP"),
        (units.short(1_001_700, digits=4), "1.002M"),
        (units.short(950), "950"),
        (units.short(None), "–"),
        (units.memory(5 * 2**20), "5 MiB"),
        (units.memory(1000 * 1024), "1,000 KiB"),
        (units.duration(4000), "1 h 06 min"),
        (units.plus_minus(Interval(mean=1.23456, low=1.22256, high=1.24656, n=3)), "1.235 ± 0.012"),
        (units.plus_minus(Interval(mean=1.23456, n=1)), "1.2346"),
        (units.words(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text == expected
