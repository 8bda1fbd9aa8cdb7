"""Curves of a study read back from ``metrics.jsonl``: one per run, then one per arm with a band over its seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arch_lab.judge.measures import BITS_PER_BYTE, Measure
from arch_lab.report.rows import diverged

AXES = ("tokens", "flops", "seconds")


@dataclass(frozen=True)
class Curve:
    """``x``: axis name -> (points,), ``middle``/``low``/``high``: mean and extremes over ``seeds`` runs at each point."""

    x: dict[str, np.ndarray]
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def run_path(study_dir: Path, result: Mapping[str, Any]) -> Path:
    return study_dir / "runs" / result["arm"] / f"lr-{result['learning_rate']:g}_seed-{result['seed']}"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Records of one run in step order. A line that a kill cut short is skipped; a step written twice counts once, the later."""
    records: dict[tuple[int, bool], dict[str, Any]] = {}
    if not path.is_file():
        return []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            records[(record["step"], tuning_key(record) is not None)] = record
        except (ValueError, KeyError, TypeError):
            continue
    return [records[key] for key in sorted(records)]


def tuning_key(record: Mapping[str, Any]) -> str | None:
    """Where a record stands for a look at the tuning split: the key of what was measured, ``tune_<primary>``."""
    return next((key for key in record if key.startswith("tune_")), None)


def series(records: Sequence[Mapping[str, Any]], key: str) -> dict[int, dict[str, float]]:
    """Step -> {axis: value, 'y': value}, up to the first value that is not finite (where a run diverged)."""
    points = {}
    for record in records:
        if key not in record:
            continue
        if record[key] is None or not math.isfinite(record[key]):
            break
        points[record["step"]] = {
            "y": float(record[key]),
            **{axis: float(record.get(axis) or 0.0) for axis in AXES},
        }
    return points


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Exponential mean with the span of ``window`` records, started without bias (each point a true weighted mean)."""
    if window <= 1 or not len(values):
        return values
    keep, numerator, weight, out = 1 - 2 / (window + 1), 0.0, 0.0, np.empty(len(values))
    for i, value in enumerate(values):
        numerator, weight = keep * numerator + value, keep * weight + 1
        out[i] = numerator / weight
    return out


def arm_curve(
    study_dir: Path, results: Sequence[Mapping[str, Any]], key: str, primary: Measure = BITS_PER_BYTE
) -> Curve | None:
    """Mean curve of the runs that finished, over the steps all of them have; None when none left metrics.

    Training loss is smoothed per run (1/40 of the records) before averaging, so the band shows seeds, not batches.
    """
    runs = [
        series(read_metrics(run_path(study_dir, r) / "metrics.jsonl"), key)
        for r in results
        if not diverged(r, primary)
    ]
    runs = [points for points in runs if points]
    if not runs:
        return None
    steps = sorted(set.intersection(*(set(points) for points in runs)))
    if not steps:
        return None
    window = len(steps) // 40 if key == "train_loss" else 1
    y = np.stack([smooth(np.array([points[s]["y"] for s in steps]), window) for points in runs])
    x = {axis: np.mean([[points[s][axis] for s in steps] for points in runs], axis=0) for axis in AXES}
    return Curve(x, y.mean(axis=0), y.min(axis=0), y.max(axis=0), len(runs))
