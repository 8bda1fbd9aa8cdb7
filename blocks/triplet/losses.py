"""Losses of a triplet: the positive must lie nearer to the anchor than the negative, by a margin.

Legend: N triplets, E width of an embedding, a anchor, p positive, n negative, m margin, d a distance.
Hinge: max(0, d(a, p) - d(a, n) + m); soft margin: ln(1 + exp(d(a, p) - d(a, n))).
Sources: squared Euclidean hinge, arXiv 1503.03832 (FaceNet), 2001.09988 (m = 5, nothing normalised) and 1910.01463 (m = 0.5);
soft margin, arXiv 1703.07737 §2.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from blocks.errors import ConfigError
from blocks.norm import widened

Distance = Literal["squared", "euclidean", "cosine"]
DISTANCES: tuple[str, ...] = ("squared", "euclidean", "cosine")
Reduction = Literal["mean", "active", "none"]


def distances(a: Tensor, b: Tensor, distance: Distance = "squared") -> Tensor:
    """(...) of a and b (..., E), which broadcast; in float32 or wider.

    squared |a - b|², euclidean |a - b| (gradient 0 where a = b), cosine 1 - cos(a, b), with cos = 0 for a zero vector.
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
    """Scalar loss of N triplets, each (N, E). The margin has no default: 5, 0.5 and 0.05 belong to different scales.

    ``reduction``: mean over all triplets, mean over the active ones (those with a loss above 0), or none. Without a triplet
    the loss is 0, and still attached to the graph, so that a batch in which nothing was mined trains nothing and breaks nothing.
    Raises: ConfigError for a margin that is not positive, an unknown option, or shapes that differ.
    """
    if margin != "soft" and (isinstance(margin, str) or not 0 < margin < float("inf")):
        raise ConfigError(f"triplet loss: margin must be a positive number or 'soft', got {margin!r}")
    if not anchor.shape == positive.shape == negative.shape:
        raise ConfigError(f"triplet loss: shapes differ: {tuple(anchor.shape)}, {tuple(positive.shape)}, {tuple(negative.shape)}")
    apart = distances(anchor, positive, distance) - distances(anchor, negative, distance)
    each = F.softplus(apart) if margin == "soft" else F.relu(apart + margin)
    if reduction == "none":
        return each
    if reduction == "mean":
        return each.sum() / max(each.numel(), 1)
    if reduction == "active":
        return each.sum() / (each > 0).sum().clamp_min(1)
    raise ConfigError(f"triplet loss: unknown reduction {reduction!r}; valid: mean, active, none")
