"""Curves of a study read back from ``metrics.jsonl``.

One per trial, then one per arm with a band over its seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arch_lab import sealed
from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Record
from arch_lab.study.events import METRICS, read_metrics
from arch_lab.study.study import Study
from arch_lab.study.trial import Trial

AXES = {
    "tokens": "training tokens",
    "flops": "training FLOPs",
    "seconds": "seconds of training",
    "steps": "training steps",
}
TRAIN_LOSS = "train_loss"


@dataclass(frozen=True)
class Curve:
    """Score over training.

    ``x``: axis -> (points,). ``middle``, ``low``, ``high``: mean and extremes over ``seeds`` trials.
    """

    x: dict[str, np.ndarray]
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int = 1

    @property
    def axes(self) -> list[str]:
        """The axes along which it advances."""
        return [axis for axis in AXES if self.x[axis][-1] > 0]

    def at(self, axis: str, amount: float) -> float | None:
        """The mean at an amount of an axis, interpolated; None outside the curve."""
        x = self.x[axis]
        if not x[0] <= amount <= x[-1] * (1 + 1e-9):
            return None
        return float(np.interp(amount, x, self.middle))


def trial_folder(study_folder: Path, record: Record) -> Path:
    return Trial.of(record).folder(study_folder)


def tuned_key(measure: Measure) -> str:
    """Key of a measure's score on the tune split, in metrics.jsonl."""
    return f"tune_{measure.key}"


def trial_curve(path: Path, key: str) -> Curve | None:
    """``key`` of one metrics.jsonl, up to the first value that is not finite (where a trial diverged).

    None without values.
    """
    points = []
    for line in read_metrics(path):
        if key not in line:
            continue
        if line[key] is None or not math.isfinite(line[key]):
            break
        points.append({**line, "steps": line["step"]})
    if not points:
        return None
    x = {axis: np.array([float(point.get(axis) or 0.0) for point in points]) for axis in AXES}
    y = np.array([float(point[key]) for point in points])
    return Curve(x, y, y, y)


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Exponential mean with the span of ``window`` values; each point is a true weighted mean."""
    if window <= 1 or not len(values):
        return values
    decay, numerator, weight, out = 1 - 2 / (window + 1), 0.0, 0.0, np.empty(len(values))
    for i, value in enumerate(values):
        numerator, weight = decay * numerator + value, decay * weight + 1
        out[i] = numerator / weight
    return out


def mean_curve(curves: Sequence[Curve], window: int = 1) -> Curve | None:
    """Mean over the steps that all curves have, each smoothed before; None where there are none."""
    if not curves:
        return None
    steps = sorted(set.intersection(*(set(curve.x["steps"]) for curve in curves)))
    if not steps:
        return None
    rows = [np.isin(curve.x["steps"], steps) for curve in curves]
    y = np.stack([smooth(curve.middle[row], window) for curve, row in zip(curves, rows, strict=True)])
    x = {
        axis: np.mean([c.x[axis][row] for c, row in zip(curves, rows, strict=True)], axis=0) for axis in AXES
    }
    return Curve(x, y.mean(axis=0), y.min(axis=0), y.max(axis=0), len(curves))


def seed_curves(folder: Path, study: Study, arm: str, task: str, key: str) -> dict[int, Curve]:
    """Seed -> curve of the trials of an arm that finished at the learning rate it was reported at."""
    primary = study.task(task).primary
    curves = {}
    for record in study.records(arm=arm, task=task, reported=True):
        curve = trial_curve(trial_folder(folder, record) / METRICS, key)
        if curve is not None and record.score(primary.key) is not None:
            curves[record.seed] = curve
    return curves


def arm_curve(folder: Path, study: Study, arm: str, task: str, key: str) -> Curve | None:
    """Mean curve of an arm.

    Training loss is smoothed per trial (1/40 of its steps), so that the band shows seeds, not batches.
    """
    curves = list(seed_curves(folder, study, arm, task, key).values())
    window = min((len(curve.middle) for curve in curves), default=0) // 40 if key == TRAIN_LOSS else 1
    return mean_curve(curves, window)


def check_curves(folder: Path, study: Study) -> None:
    """Check the hash of every curve that still exists.

    Raises: DamagedError for a curve that is not what its trial wrote.
    """
    for name, expected in study.curves.items():
        path = folder / name
        if path.is_file() and sealed.file_sha256(path) != expected:
            advice = f"delete {path.parent} and run `arch-lab compare` again to train it again"
            raise sealed.DamagedError(f"{path} was edited or damaged after it was written; {advice}")
