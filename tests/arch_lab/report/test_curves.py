"""Curves of trials as figures read them: what is skipped, where they end, the band over seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from arch_lab.judge.records import Record
from arch_lab.report import curves, load
from arch_lab.study.events import read_metrics
from tests.study_fixture import run_folder, write_study


def test_a_cut_line_is_skipped_and_a_repeated_step_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "train_loss": 3}\n{"step": 2, "train_loss": 9}\n'
        '{"step": 2, "train_loss": 2}\n{"step": 3, "trai'
    )
    assert [(r["step"], r["train_loss"]) for r in read_metrics(path)] == [(1, 3), (2, 2)]


def test_a_diverging_curve_ends_before_its_first_nan(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    losses = ((1, "3.0"), (2, "NaN"), (3, "2.0"))
    path.write_text("".join(f'{{"step": {step}, "train_loss": {loss}}}\n' for step, loss in losses))
    curve = curves.trial_curve(path, "train_loss")
    assert curve is not None and curve.x["steps"].tolist() == [1] and curve.middle.tolist() == [3]


def test_smoothing_leaves_a_constant_unchanged() -> None:
    np.testing.assert_allclose(curves.smooth(np.full(50, 2.5), 9), 2.5)


def test_the_band_spans_the_seeds(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", arms=("gemma3",), exponents=(-8,), diverged=())
    curve = curves.arm_curve(folder, load(folder), "gemma3", "", "tune_bits_per_byte")
    assert curve is not None and curve.seeds == 3
    assert np.all(curve.low < curve.middle) and np.all(curve.middle < curve.high)


def test_run_folders_are_named_as_training_names_them(tmp_path: Path) -> None:
    record = Record(arm="a", learning_rate=2.0**-9, seed=3)
    expected = tmp_path / "runs/a/lr-0.00195312_seed-3"
    assert curves.trial_folder(tmp_path, record) == run_folder(tmp_path, record) == expected
