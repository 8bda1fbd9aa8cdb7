"""Yes or no by a score and a threshold: area under the precision-recall curve, F1 at a threshold, the best F1.

Legend: N items, a score each (higher: rather yes), label 1 yes, 0 no.
Tied scores share one threshold, so no order of the rows helps: the AU-PRC of a constant score is the share of yes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arch_lab.metrics.checks import Array, MetricError, labels, numbers, paired


def thresholds(scores: Any, targets: Any) -> tuple[Array, Array, Array]:
    """(falling different scores, items at or above each, yes among them). Raises: MetricError without any yes."""
    s, t = numbers(scores, "scores"), labels(targets, 2, "targets")
    paired(s, t, "scores and targets")
    if not t.any():
        raise MetricError("targets: no item is labelled 1, so recall has no meaning")
    values, place = np.unique(-s, return_inverse=True)
    items = np.bincount(place).cumsum()
    yes = np.bincount(place, weights=t).astype(np.int64).cumsum()
    return -values, items, yes


def average_precision(scores: Any, targets: Any) -> float:
    """AU-PRC as the sum of precision times the step in recall, without interpolation (scikit-learn's)."""
    _, items, yes = thresholds(scores, targets)
    return float((np.diff(yes, prepend=0) * (yes / items)).sum() / yes[-1])


def best_f1(scores: Any, targets: Any) -> tuple[float, float]:
    """(largest F1, the highest threshold that gives it): yes where score >= threshold. Chosen on these very items."""
    values, items, yes = thresholds(scores, targets)
    each = 2 * yes / (items + yes[-1])
    best = int(each.argmax())
    return float(each[best]), float(values[best])


def f1_at(scores: Any, targets: Any, threshold: float = 0.5) -> float:
    """F1 of yes where score >= threshold. Raises: MetricError as the others."""
    values, items, yes = thresholds(scores, targets)
    above = int((values >= threshold).sum())
    return float(2 * yes[above - 1] / (items[above - 1] + yes[-1])) if above else 0.0
