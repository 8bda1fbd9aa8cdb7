"""Pearson and Spearman. Legend: N pairs.

Where scipy gives NaN because one side is constant, these give 0: a model that answers the same for every pair
shows no association, a mean over seeds should say so, and a NaN would take the other seeds with it.
Predictions that are not numbers (a diverged run) do give NaN, which stays visible; targets that are not are
an error.
"""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np

from arch_lab.metrics.checks import Array, MetricError, numbers, paired


def pearson(predictions: Any, targets: Any) -> float:
    """Linear correlation in [-1, 1]; 0 when a side is constant, NaN when a prediction is not finite.

    Raises: MetricError.
    """
    pair = _pair(predictions, targets)
    return nan if pair is None else _pearson(*pair)


def spearman(predictions: Any, targets: Any) -> float:
    """Pearson's of the ranks, tied values sharing the mean of theirs; special cases as ``pearson``.

    Raises: MetricError.
    """
    pair = _pair(predictions, targets)
    return nan if pair is None else _pearson(ranks(pair[0]), ranks(pair[1]))


def ranks(values: Array) -> Array:
    """1 … N in rising order, tied values all at the mean of the places they fill."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    last = count.cumsum()
    mean: Array = (last - (count - 1) / 2)[inverse]
    return mean


def _pair(predictions: Any, targets: Any) -> tuple[Array, Array] | None:
    p, t = numbers(predictions, "predictions", finite=False), numbers(targets, "targets")
    paired(p, t, "predictions and targets")
    if len(p) < 2:
        raise MetricError("a correlation needs at least 2 pairs, got 1")
    return (p, t) if np.isfinite(p).all() else None


def _pearson(a: Array, b: Array) -> float:
    if (a == a[0]).all() or (
        b == b[0]
    ).all():  # by value: the variance of a constant rounds to something, and r to noise
        return 0.0
    # scaled before squares are taken, so that 1e200 does not overflow and 1e-200 does not vanish
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return float(np.clip(a @ b, -1.0, 1.0))
