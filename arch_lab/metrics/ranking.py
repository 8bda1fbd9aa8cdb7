"""Retrieval: recall@k, reciprocal rank, nDCG@k, each a mean over queries.

Legend: Q queries, N documents, scores (Q, N), relevance (Q, N), 0 = not relevant.
Of tied documents the less relevant stand first. That is deterministic, does not depend on the order of the
documents, and gives nothing away to a model that scores everything alike. A query without a relevant document
is an error: leave it out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arch_lab.metrics.checks import Array, MetricError, array


def ranked(scores: Any, relevance: Any) -> Array:
    """(Q, N) relevance in the order of falling scores. Raises: MetricError."""
    s, r = array(scores).astype(np.float64), array(relevance).astype(np.float64)
    if s.ndim != 2 or s.shape != r.shape or not s.size:
        raise MetricError(
            f"scores and relevance must both be (queries, documents), got {s.shape} and {r.shape}"
        )
    if not np.isfinite(s).all():
        raise MetricError(
            f"scores: query {int((~np.isfinite(s)).any(axis=1).argmax())} has one that is not a finite number"
        )
    if not (np.isfinite(r).all() and (r >= 0).all()):
        raise MetricError("relevance: must be finite numbers, 0 or more")
    empty = ~(r > 0).any(axis=1)
    if empty.any():
        raise MetricError(f"relevance: query {int(empty.argmax())} has no relevant document; leave it out")
    return np.stack([row[np.lexsort((row, -score))] for score, row in zip(s, r, strict=True)])


def recall(scores: Any, relevance: Any, k: int) -> float:
    """Share of a query's relevant documents among its first k."""
    relevant = ranked(scores, relevance) > 0
    return float((relevant[:, : _at_least_one(k)].sum(axis=1) / relevant.sum(axis=1)).mean())


def reciprocal_rank(scores: Any, relevance: Any, k: int | None = None) -> float:
    """MRR: 1 over the rank of the first relevant document; with k, 0 when it stands beyond (MRR@k)."""
    relevant = ranked(scores, relevance) > 0
    rank = relevant.argmax(axis=1) + 1
    return float(
        np.where(rank <= (relevant.shape[1] if k is None else _at_least_one(k)), 1 / rank, 0.0).mean()
    )


def ndcg(scores: Any, relevance: Any, k: int = 10) -> float:
    """DCG / ideal DCG over the first k, gain = relevance (linear, as trec_eval), discount log2(place + 1)."""
    gains = ranked(scores, relevance)
    discount = 1 / np.log2(np.arange(2, min(_at_least_one(k), gains.shape[1]) + 2))
    best = -np.sort(-gains, axis=1)
    gained, ideal = (rows[:, : len(discount)] @ discount for rows in (gains, best))
    return float((gained / ideal).mean())


def _at_least_one(k: int) -> int:
    if k < 1:
        raise MetricError(f"k must be at least 1, got {k}")
    return k
