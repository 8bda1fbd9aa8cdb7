"""Speakers, or any classes, by the nearest centroid.

Cosine scores, and equal error rates as MCE-2018 defines them.

Legend: N items, E width, S classes (the list of wanted ones), background = items of no class on it.
Sources: swshon/multi-speakerID and KinWaiCheuk/MCE2018 dataloader.py (arXiv 1910.01463).
Top-S asks whether an item belongs to anybody on the list; Top-1 also asks who, and counts a wanted item given
to the wrong class (a confusion) as missed at every threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from arch_lab.metrics.checks import Array, MetricError, array, labels, numbers, paired

Crossing = Literal["nearest", "interpolated"]


@dataclass(frozen=True, kw_only=True)
class ErrorRate:
    """``rate``: mean of false acceptance and false rejection at the crossing; ``confusions``: wanted items
    named wrongly.
    """

    rate: float
    confusions: int = 0


class CentroidCosineScorer:
    """Mean embedding of each class, brought to unit length; the score of an item is its cosine with it.

    Embeddings enter the mean as they are (the published scoring normalises i-vectors beforehand and network
    outputs not at all).
    The published code takes the dot product with a test embedding that is not normalised: within one item
    that ranks alike, over items it is another score. Raises: MetricError for shapes that do not fit, or a
    class whose mean is zero.
    """

    def __init__(self, embeddings: Any, classes: Any) -> None:
        vectors, owners = _matrix(embeddings, "embeddings"), array(classes)
        if owners.shape != vectors.shape[:1]:
            raise MetricError(f"embeddings {vectors.shape} need one class each, got {owners.shape}")
        self.classes, inverse = np.unique(owners, return_inverse=True)
        sums = np.zeros((len(self.classes), vectors.shape[1]))
        np.add.at(sums, inverse, vectors)
        means = sums / np.bincount(inverse)[:, None]
        length = np.linalg.norm(means, axis=1)
        if not length.all():
            raise MetricError(
                f"class {self.classes[int((length == 0).argmax())]}: its mean embedding is zero and has no "
                "direction"
            )
        self.centroids: Array = means / length[:, None]

    def scores(self, embeddings: Any) -> Array:
        """(N, S) cosines, columns in the order of ``classes``; an embedding of length 0 scores 0 with all."""
        vectors = _matrix(embeddings, "embeddings")
        if vectors.shape[1] != self.centroids.shape[1]:
            raise MetricError(
                f"embeddings have width {vectors.shape[1]}, the centroids {self.centroids.shape[1]}"
            )
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
        cosines: Array = unit @ self.centroids.T
        return cosines

    def best(self, embeddings: Any) -> tuple[Array, Array]:
        """(N,) largest score and (N,) the class it is of; of tied classes the first."""
        scores = self.scores(embeddings)
        return scores.max(axis=1), self.classes[scores.argmax(axis=1)]


def top_s_eer(scores: Any, wanted: Any, *, crossing: Crossing = "nearest") -> ErrorRate:
    """Equal error rate of "is on the list": ``scores`` (N,) the largest over classes, ``wanted`` (N,) 1 or 0.

    ``crossing`` "nearest", as published: mean of both rates at the threshold where they lie closest, the
    highest such. "interpolated": where the straight lines between thresholds cross, which is free of their
    grain.
    Raises: MetricError unless there are items of both kinds.
    """
    return _eer(scores, wanted, 0, crossing)


def top1_eer_with_confusion(
    scores: Any, wanted: Any, confused: Any, *, crossing: Crossing = "nearest"
) -> ErrorRate:
    """Top-1 equal error rate. ``confused`` (N,) 1 where a wanted item was given to the wrong class.

    Confusions are left out of the curve; their number is then added to the misses and to the wanted items.
    Raises: MetricError for a confused item that is not wanted, or when no wanted item is named rightly.
    """
    s, w, c = numbers(scores, "scores"), labels(wanted, 2, "wanted"), labels(confused, 2, "confused")
    paired(s, w, "scores and wanted")
    paired(w, c, "wanted and confused")
    if (c > w).any():
        raise MetricError(f"confused: item {int((c > w).argmax())} is not wanted, so it cannot be confused")
    if c.sum() == w.sum() > 0:
        raise MetricError(
            f"all {int(w.sum())} wanted items are confused: there is no curve to read an error rate from"
        )
    return _eer(s[c == 0], w[c == 0], int(c.sum()), crossing)


def _eer(scores: Any, wanted: Any, confusions: int, crossing: Crossing) -> ErrorRate:
    items, hits = _above_thresholds(scores, wanted)
    false = items - hits
    if not false[-1]:
        raise MetricError("wanted: every item is wanted; a false acceptance needs one that is not")
    background, wanted_ones = int(false[-1]), int(hits[-1]) + confusions
    accepted, missed = (
        np.concatenate([[0], false]),
        wanted_ones - np.concatenate([[0], hits]),
    )  # the first point accepts nothing
    gap = (
        missed * background - accepted * wanted_ones
    )  # in integers: which threshold is nearest must not hang on rounding
    if crossing == "nearest":
        nearest = int(np.abs(gap).argmin())
        return ErrorRate(
            rate=float(accepted[nearest] / background + missed[nearest] / wanted_ones) / 2,
            confusions=confusions,
        )
    if crossing != "interpolated":
        raise MetricError(f"unknown crossing {crossing!r}; valid: nearest, interpolated")
    right = int((gap <= 0).argmax())
    left = right - 1  # the first gap is above 0 and the last below, so there are both
    share = gap[left] / (gap[left] - gap[right])
    rate = (accepted[left] + share * (accepted[right] - accepted[left])) / background
    return ErrorRate(rate=float(rate), confusions=confusions)


def _above_thresholds(scores: Any, targets: Any) -> tuple[Array, Array]:
    """(items, wanted ones among them) at or above each different score, the highest first; tied scores share
    a threshold.

    Raises: MetricError without any wanted item.
    """
    s, t = numbers(scores, "scores"), labels(targets, 2, "targets")
    paired(s, t, "scores and targets")
    if not t.any():
        raise MetricError("targets: no item is labelled 1, so recall has no meaning")
    _, inverse = np.unique(-s, return_inverse=True)
    items = np.bincount(inverse).cumsum()
    return items, np.bincount(inverse, weights=t).astype(np.int64).cumsum()


def _matrix(values: Any, name: str) -> Array:
    matrix = array(values).astype(np.float64)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise MetricError(f"{name}: expected finite numbers of shape (N, width), got {matrix.shape}")
    return matrix
