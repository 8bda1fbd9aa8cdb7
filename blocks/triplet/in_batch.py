"""Triplets of one batch, chosen by the embeddings of the moment.

All, hard, semi-hard, or the hardest of each anchor.

Legend: N items, E width, a anchor, p positive (same label, another item), n negative (another label), m
margin, d distance.
    all        every (a, p, n)
    hard       d(a, n) <= d(a, p)
    semihard   d(a, p) < d(a, n) <= d(a, p) + m           (arXiv 1503.03832 §3.2: the negative is farther, but
               inside the margin) batch_hard for each anchor its farthest positive and nearest negative
               (arXiv 1703.07737 §2)
Without a gradient, and without the N³ cube in memory: pairs are taken a piece at a time.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from blocks.errors import ConfigError, did_you_mean
from blocks.losses import Distance, distances

Kind = Literal["all", "hard", "semihard", "batch_hard"]
KINDS: tuple[str, ...] = ("all", "hard", "semihard", "batch_hard")
PIECE = 2**22  # (pair, negative) cells looked at together


@torch.no_grad()
def batch_triplets(
    embeddings: Tensor,
    labels: Tensor,
    *,
    kind: Kind = "semihard",
    margin: float = 0.2,
    distance: Distance = "squared",
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices (anchor, positive, negative) of the chosen triplets, in lexicographic order.

    None is no error (see triplet_loss).

    embeddings (N, E), labels (N,). ``margin`` concerns "semihard" alone. Ties of "batch_hard" go to the
    lowest index.
    Raises: ConfigError for an unknown kind, a margin that is not positive, or shapes that do not fit.
    """
    if kind not in KINDS:
        raise ConfigError(f"batch_triplets: unknown kind {kind!r}{did_you_mean(kind, KINDS)}")
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ConfigError(
            f"batch_triplets: embeddings (N, E) need labels (N,), got {tuple(embeddings.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if kind == "semihard" and not margin > 0:
        raise ConfigError(f"batch_triplets: margin must be positive, got {margin}")
    same = labels[:, None] == labels[None]
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # row by row: the distance of N² pairs of E numbers at once would be the largest tensor of the step
    d = (
        torch.stack([distances(embedding[None], embeddings, distance) for embedding in embeddings])
        if len(labels)
        else same.float()
    )
    if kind == "batch_hard":
        return _hardest(d, same & others, ~same)
    anchor, positive = (same & others).nonzero(as_tuple=True)
    triplets: list[Tensor] = []
    step = max(1, PIECE // max(1, len(labels)))
    for a, p in zip(anchor.split(step), positive.split(step), strict=True):
        beyond = d[a] - d[a, p][:, None]  # (pairs, N): how much farther than the positive an item lies
        eligible = ~same[a]
        if kind == "hard":
            eligible &= beyond <= 0
        elif kind == "semihard":
            eligible &= (beyond > 0) & (beyond <= margin)
        row, n = eligible.nonzero(as_tuple=True)
        triplets.append(torch.stack([a[row], p[row], n]))
    a, p, n = torch.cat(triplets, dim=1) if triplets else anchor.new_zeros((3, 0))
    return a, p, n


def _hardest(d: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    anchor = (positives.any(dim=1) & negatives.any(dim=1)).nonzero().squeeze(1)
    if not len(anchor):
        return anchor, anchor, anchor
    positive = d.masked_fill(~positives, float("-inf"))[anchor].argmax(dim=1)
    negative = d.masked_fill(~negatives, float("inf"))[anchor].argmin(dim=1)
    return anchor, positive, negative
