"""Losses of a query and its documents, all unit vectors: in-batch contrast, and the sum of cosines made for one pair at a time.

Legend: N queries, M documents of the batch, K negatives of a query, E width; q query, d+ its positive, d- a negative, τ temperature.
    in_batch_nce  mean of -log( exp(q·d+ / τ) / Σ exp(q·d / τ) ), the sum over the M documents that are not left out
    pairwise_m2   mean of 1 - cos(q, d+) + Σ_K cos(q, d-), never below -K and never above 2 + K
Sources: InfoNCE with in-batch negatives, arXiv 1807.03748 and 2004.04906 §3.2; the pairwise form is that of M2-BERT's retrieval models
(together.ai/blog/long-context-retrieval-models-with-monarch-mixer), which need no second pair in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.errors import ConfigError
from blocks.norm import widened


def in_batch_nce(queries: Tensor, documents: Tensor, positive: Tensor, *, temperature: float, left_out: Tensor | None = None) -> Tensor:
    """Scalar. queries (N, E), documents (M, E), ``positive`` (N,) the place of each query's positive among the documents.

    ``left_out`` (N, M) bool: documents that are no negatives of a query, such as another one relevant to it; the positive always
    counts. Raises: ConfigError for a temperature that is not positive, or shapes that do not fit.
    """
    if not 0 < temperature < float("inf"):
        raise ConfigError(f"in-batch contrast: temperature must be a positive number, got {temperature}")
    n, m = len(queries), len(documents)
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1] or positive.shape != (n,):
        shapes = f"{tuple(queries.shape)}, {tuple(documents.shape)}, {tuple(positive.shape)}"
        raise ConfigError(f"in-batch contrast: queries (N, E), documents (M, E) and positive (N,) do not fit: {shapes}")
    wide = widened(queries.dtype)
    scores = queries.to(wide) @ documents.to(wide).T / temperature
    if left_out is not None:
        if left_out.dtype != torch.bool or left_out.shape != (n, m):
            raise ConfigError(f"in-batch contrast: left_out must be bool of shape {(n, m)}, got {left_out.dtype} {tuple(left_out.shape)}")
        positives = F.one_hot(positive, m).bool()
        scores = scores.masked_fill(left_out & ~positives, float("-inf"))
    return F.cross_entropy(scores, positive)


def pairwise_m2(queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Scalar. queries and positives (N, E), negatives (N, K, E), K >= 0; nothing is compared between rows.

    Raises: ConfigError for shapes that do not fit.
    """
    if queries.shape != positives.shape or negatives.ndim != 3 or negatives.shape[::2] != queries.shape:
        shapes = f"{tuple(queries.shape)}, {tuple(positives.shape)}, {tuple(negatives.shape)}"
        raise ConfigError(f"pairwise loss: queries and positives (N, E) and negatives (N, K, E) do not fit: {shapes}")
    wide = widened(queries.dtype)
    q, p, n = queries.to(wide), positives.to(wide), negatives.to(wide)
    near = F.cosine_similarity(q, p, dim=-1)
    far = F.cosine_similarity(q[:, None], n, dim=-1).sum(dim=-1)
    return (1 - near + far).mean()
