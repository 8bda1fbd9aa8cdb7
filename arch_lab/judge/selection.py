"""The choice of a learning rate on the tune split, and whether the grid was wide enough for it.

The held-out split is never looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Record
from arch_lab.units import rate


def select(records: Sequence[Record], arms: Sequence[str], primary: Measure) -> dict[str, float]:
    """Arm -> the learning rate with the best mean of ``primary`` on the tune split, of the records of one task.

    Learning rates compete on the seeds that all of them have run, so one that was given more seeds later gains nothing by it.
    A rate where a seed diverged loses to every rate where none did; among such rates fewer divergences win. Ties go to the
    smaller rate. An arm without results, or without learning rates, is absent.
    """
    selected = {}
    for arm in arms:
        tuned: dict[float, dict[int, float | None]] = {}
        for record in records:
            if record.arm == arm and record.learning_rate is not None:
                tuned.setdefault(record.learning_rate, {})[record.seed] = record.tuning_score
        if tuned:
            selected[arm] = _best_rate(tuned, primary)
    return selected


def _best_rate(tuned: Mapping[float, Mapping[int, float | None]], primary: Measure) -> float:
    common = set.intersection(*(set(by_seed) for by_seed in tuned.values()))
    sign = -1 if primary.higher_is_better else 1

    def rank(learning_rate: float) -> tuple[int, float, float]:
        values = [value for seed, value in tuned[learning_rate].items() if seed in common or not common]
        good = [value for value in values if value is not None]
        return len(values) - len(good), sign * float(np.mean(good)) if good else math.inf, learning_rate

    return min(sorted(tuned), key=rank)


def wider(rates: Sequence[float], selected: Sequence[float]) -> list[float]:
    """One more rate, a factor of the grid's step away, at each edge that an arm selected. ``rates`` ascend."""
    step = rates[1] / rates[0] if len(rates) > 1 else 2.0
    more = []
    if rates[0] in selected:
        more.append(_rounded(rates[0] / step))
    if rates[-1] in selected and len(rates) > 1:
        more.append(_rounded(rates[-1] * step))
    return more


def _rounded(learning_rate: float) -> float:
    return float(f"{learning_rate:.6g}")  # folders are named by the rate: 0.0005, not 0.0005000000000000001


def edge_warnings(records: Sequence[Record], selected: Mapping[str, float], primary: Measure) -> list[str]:
    """One line per arm whose learning rate is no real choice, or whose optimum may lie outside the grid; one task.

    An arm that finished no trial at its rate is left to the verdict.
    """
    lines = []
    for arm, learning_rate in selected.items():
        tried = [r for r in records if r.arm == arm and r.learning_rate is not None]
        if any(r.score(primary.key) is not None for r in tried if r.learning_rate == learning_rate):
            task = f"{tried[0].task}: " if tried[0].task else ""
            problem = _edge_problem(tried, learning_rate)
            lines += [f"{task}{arm}: {problem}"] if problem else []
    return lines


def _edge_problem(records: Sequence[Record], learning_rate: float) -> str:
    rates = sorted({r.learning_rate for r in records if r.learning_rate is not None})
    if len(rates) == 1:
        return f"only one learning rate ({rate(learning_rate)}) was tried, so it is not tuned; add neighbours a factor 2 apart"
    if len({_first_tuning_score(records, other) for other in rates}) == 1:
        return f"the score is the same at every learning rate tried, so the choice of {rate(learning_rate)} is arbitrary"
    if learning_rate not in (rates[0], rates[-1]):
        return ""
    side, factor = ("smallest", 0.5) if learning_rate == rates[0] else ("largest", 2)
    return (
        f"its best learning rate {rate(learning_rate)} is the {side} of the grid, so the optimum may lie outside; "
        f"add {rate(learning_rate * factor)} and compare again"
    )


def _first_tuning_score(records: Sequence[Record], learning_rate: float) -> float | None:
    """Of the seed that ran first at this rate: any tuning seed would do."""
    return next(r.tuning_score for r in records if r.learning_rate == learning_rate)
