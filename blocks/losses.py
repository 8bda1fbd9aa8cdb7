"""Losses between vectors: triplet margin, in-batch contrast, pairwise M2-BERT loss.

Legend: E width of an embedding, d a distance.
Triplets (N of them; a anchor, p positive, n negative, m margin):
    hinge        max(0, d(a, p) - d(a, n) + m)
    soft margin  ln(1 + exp(d(a, p) - d(a, n)))
Retrieval (N queries q, M documents of the batch, K negatives of a query; d+ the positive, d- a negative, τ
temperature):
    in_batch_nce  mean of -log( exp(q·d+ / τ) / Σ exp(q·d / τ) ), the sum over the M documents that are not
    left out pairwise_m2   mean of 1 - cos(q, d+) + Σ_K cos(q, d-), never below -K and never above 2 + K
Sources: squared Euclidean hinge arXiv 1503.03832 (FaceNet), 2001.09988 (m = 5, nothing normalised) and
1910.01463 (m = 0.5); soft margin arXiv 1703.07737 §2; InfoNCE with in-batch negatives arXiv 1807.03748 and
2004.04906 §3.2; the pairwise form together.ai/blog/long-context-retrieval-models-with-monarch-mixer, which
needs no second pair in the batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.errors import ConfigError
from blocks.norm import widened

Distance = Literal["squared", "euclidean", "cosine"]
DISTANCES: tuple[str, ...] = ("squared", "euclidean", "cosine")
Reduction = Literal["mean", "active", "none"]


def distances(a: Tensor, b: Tensor, distance: Distance = "squared") -> Tensor:
    """(...) of a and b (..., E), which broadcast; in float32 or wider.

    squared |a - b|², euclidean |a - b| (gradient 0 where a = b), cosine 1 - cos(a, b), with cos = 0 for a
    zero vector.
    """
    wide = widened(a.dtype)
    a, b = a.to(wide), b.to(wide)
    if distance == "cosine":
        return 1 - (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(dim=-1)
    if distance == "euclidean":
        return (a - b).norm(dim=-1)
    if distance == "squared":
        return (a - b).square().sum(dim=-1)
    raise ConfigError(f"unknown distance {distance!r}; valid: {', '.join(DISTANCES)}")


def triplet_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float | Literal["soft"],
    distance: Distance = "squared",
    reduction: Reduction = "mean",
) -> Tensor:
    """Scalar loss of N triplets, each (N, E). The margin has no default: 5, 0.5 and 0.05 belong to different
    scales.

    ``reduction``: mean over all triplets, mean over the active ones (those with a loss above 0), or none.
    Without a triplet the loss is 0, and still attached to the graph, so that a batch in which nothing was
    mined trains nothing and breaks nothing.
    Raises: ConfigError for a margin that is not positive, an unknown option, or shapes that differ.
    """
    if margin != "soft" and (isinstance(margin, str) or not 0 < margin < float("inf")):
        raise ConfigError(f"triplet loss: margin must be a positive number or 'soft', got {margin!r}")
    if not anchor.shape == positive.shape == negative.shape:
        raise ConfigError(
            f"triplet loss: shapes differ: {tuple(anchor.shape)}, {tuple(positive.shape)}, "
            f"{tuple(negative.shape)}"
        )
    gap = distances(anchor, positive, distance) - distances(anchor, negative, distance)
    losses = F.softplus(gap) if margin == "soft" else F.relu(gap + margin)
    if reduction == "none":
        return losses
    if reduction == "mean":
        return losses.sum() / max(losses.numel(), 1)
    if reduction == "active":
        return losses.sum() / (losses > 0).sum().clamp_min(1)
    raise ConfigError(f"triplet loss: unknown reduction {reduction!r}; valid: mean, active, none")


def in_batch_nce(
    queries: Tensor,
    documents: Tensor,
    positive: Tensor,
    *,
    temperature: float,
    left_out: Tensor | None = None,
) -> Tensor:
    """Scalar. queries (N, E), documents (M, E), ``positive`` (N,) the place of each query's positive among
    the documents.

    ``left_out`` (N, M) bool: documents that are no negatives of a query, such as another one relevant to it;
    the positive always counts. Raises: ConfigError for a temperature that is not positive, or shapes that do
    not fit.
    """
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"in-batch contrast: temperature must be a positive number, got {temperature}")
    n, m = len(queries), len(documents)
    if (
        queries.ndim != 2
        or documents.ndim != 2
        or queries.shape[1] != documents.shape[1]
        or positive.shape != (n,)
    ):
        shapes = f"{tuple(queries.shape)}, {tuple(documents.shape)}, {tuple(positive.shape)}"
        raise ConfigError(
            f"in-batch contrast: queries (N, E), documents (M, E) and positive (N,) do not fit: {shapes}"
        )
    wide = widened(queries.dtype)
    scores = queries.to(wide) @ documents.to(wide).T / temperature
    if left_out is not None:
        if left_out.dtype != torch.bool or left_out.shape != (n, m):
            raise ConfigError(
                f"in-batch contrast: left_out must be bool of shape {(n, m)}, "
                f"got {left_out.dtype} {tuple(left_out.shape)}"
            )
        positives = F.one_hot(positive, m).bool()
        scores = scores.masked_fill(left_out & ~positives, float("-inf"))
    return F.cross_entropy(scores, positive)


def pairwise_m2(queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Scalar. queries and positives (N, E), negatives (N, K, E), K >= 0; nothing is compared between rows.

    Raises: ConfigError for shapes that do not fit.
    """
    if queries.shape != positives.shape or negatives.ndim != 3 or negatives.shape[::2] != queries.shape:
        shapes = f"{tuple(queries.shape)}, {tuple(positives.shape)}, {tuple(negatives.shape)}"
        raise ConfigError(
            f"pairwise loss: queries and positives (N, E) and negatives (N, K, E) do not fit: {shapes}"
        )
    wide = widened(queries.dtype)
    q, p, n = queries.to(wide), positives.to(wide), negatives.to(wide)
    positive_cosine = F.cosine_similarity(q, p, dim=-1)
    negative_cosines = F.cosine_similarity(q[:, None], n, dim=-1).sum(dim=-1)
    return (1 - positive_cosine + negative_cosines).mean()
