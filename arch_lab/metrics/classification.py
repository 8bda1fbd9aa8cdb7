"""Accuracy, F1 and the Matthews coefficient, all from one confusion matrix of integers.

Legend: N items, C classes, c[i, j] items of class i predicted as j, t row sums, p column sums, n = N.
Held equal to scikit-learn, degenerate predictors included.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from arch_lab.metrics.checks import Array, labels, paired


def confusion_matrix(predictions: Any, targets: Any, classes: int) -> Array:
    """(C, C) int64. Raises: MetricError for labels outside 0 … C - 1 or lengths that differ."""
    p, t = labels(predictions, classes, "predictions"), labels(targets, classes, "targets")
    paired(p, t, "predictions and targets")
    return np.bincount(t * classes + p, minlength=classes * classes).reshape(classes, classes)


def accuracy(predictions: Any, targets: Any, classes: int) -> float:
    c = confusion_matrix(predictions, targets, classes)
    return int(c.trace()) / int(c.sum())


def f1(predictions: Any, targets: Any) -> float:
    """Of class 1 of two; 0 when it is neither predicted nor present (precision and recall are 0/0 then)."""
    c = confusion_matrix(predictions, targets, 2)
    both = int(c[1].sum() + c[:, 1].sum())
    return 2 * int(c[1, 1]) / both if both else 0.0


def matthews(predictions: Any, targets: Any, classes: int = 2) -> float:
    """(n·trace - t·p) / sqrt((n² - p·p)(n² - t·t)), R_K for C classes; 0 when one class alone is predicted or
    present.

    Python integers throughout, exact for any n: only the last division rounds.
    """
    c = confusion_matrix(predictions, targets, classes)
    t, p = c.sum(axis=1).tolist(), c.sum(axis=0).tolist()
    n = sum(t)
    spread = (n * n - sum(k * k for k in p)) * (n * n - sum(k * k for k in t))
    return (
        (n * int(c.trace()) - sum(a * b for a, b in zip(t, p, strict=True))) / sqrt(spread) if spread else 0.0
    )
