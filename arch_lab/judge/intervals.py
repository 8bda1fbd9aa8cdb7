"""Student-t intervals over seeds, paired differences, and Holm's correction.

Arms with the same seed saw the same data in the same order, so differences are paired by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from arch_lab.judge import student_t
from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Difference, Interval, is_finite

LEVEL = 0.95
LARGEST_LOGARITHM = 700.0  # exp() of more is infinite


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Student-t interval of the mean. ``values`` are finite; an empty sequence has mean None."""
    n = len(values)
    if n == 0:
        return Interval(mean=None, n=0)
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean=mean, n=1)
    half = student_t.quantile((1 + level) / 2, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


def measure_interval(values: Sequence[float], measure: Measure) -> Interval:
    """Interval of a measure. That of an exponential of a loss is taken on its logarithm, so that it moves with the loss."""
    if not measure.logarithmic:
        return mean_interval(values)
    logs = mean_interval([math.log(value) for value in values if value > 0])
    mean, low, high = (
        None if x is None else math.exp(min(x, LARGEST_LOGARITHM)) for x in (logs.mean, logs.low, logs.high)
    )
    return Interval(mean=mean, low=low, high=high, n=logs.n)


def paired_difference(
    a_by_seed: Mapping[int, float | None], b_by_seed: Mapping[int, float | None], level: float = LEVEL
) -> Difference:
    """a - b over the seeds where both are finite; ``distinguishable`` when p < 1 - level, uncorrected.

    When neither side moves with the seed there is one measurement, not n: no interval and no test, however many rows.
    """
    seeds = sorted(
        s for s in a_by_seed.keys() & b_by_seed.keys() if is_finite(a_by_seed[s]) and is_finite(b_by_seed[s])
    )
    a, b = (np.array([side[s] for s in seeds], dtype=float) for side in (a_by_seed, b_by_seed))
    differences = a - b
    base = mean_interval(differences.tolist(), level)
    if base.n < 2 or (np.ptp(a) == 0 and np.ptp(b) == 0):
        return Difference(mean=base.mean, n=base.n, differences=tuple(differences.tolist()))
    error = float(np.std(differences, ddof=1)) / math.sqrt(base.n)
    assert base.mean is not None
    statistic = base.mean / error if error else (math.inf if base.mean else 0.0)
    p_value = student_t.two_sided(statistic, base.n - 1)
    return Difference(
        mean=base.mean,
        low=base.low,
        high=base.high,
        n=base.n,
        differences=tuple(differences.tolist()),
        p_value=p_value,
        distinguishable=p_value < 1 - level,
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values; None (no test made) stays None and does not count as a comparison."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        adjusted[i] = running
    return adjusted
