"""Triplet mining from labels: classes (speakers) or a continuous target.

Legend: N items, y label, c centre (a class, or the label of one item), a anchor, p positive, n negative.
Sources: KinWaiCheuk/MCE2018 TNN.py (arXiv 1910.01463) and KinWaiCheuk/IJCNN2020_music_emotion mining.py
(2001.09988). Both take, for each centre, some pairs of like items and some unlike items, and cross them:
every pair meets every negative of its centre.
What is drawn depends on the seed and the labels only: neither on torch's global generator nor on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import isqrt

import torch
from torch import Tensor

from blocks.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Triplets:
    """Row indices of N triplets, with the centre and the pair (counted over all centres) each comes from.

    ``centres``: how many were tried; ``no_pair``, ``no_negative``: how many of them gave nothing, and why (a
    centre without a pair is counted under that alone).
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    centre: Tensor
    pair: Tensor
    centres: int
    no_pair: int
    no_negative: int

    def __len__(self) -> int:
        return len(self.anchor)

    def of(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of ``items`` (N, …) as anchors, positives and negatives."""
        return items[self.anchor], items[self.positive], items[self.negative]

    def split(self, share: float = 0.7) -> tuple[Triplets, Triplets]:
        """(training, validation): of each centre, floor(share · pairs) pairs with all their triplets, and the
        rest.

        This is the published split. It keeps pairs apart and not items: an item of a validation triplet
        stands in training triplets too, so the loss on it tells when to stop and says nothing about new
        items. Split items before mining for that.
        """
        if not 0 <= share <= 1:
            raise ConfigError(f"Triplets.split: share must be in [0, 1], got {share}")
        # pairs are numbered in the order they were drawn, those of one centre after another
        _, index = torch.unique_consecutive(self.pair, return_inverse=True)
        centre_of_pair = torch.zeros(int(index[-1]) + 1 if len(self) else 0, dtype=torch.long).scatter(
            0, index, self.centre
        )
        _, group_sizes = torch.unique_consecutive(centre_of_pair, return_counts=True)
        rank = torch.arange(len(centre_of_pair)) - (group_sizes.cumsum(0) - group_sizes).repeat_interleave(
            group_sizes
        )
        # 0.7 · 10 is 7, not 6.999…
        counts = torch.tensor([int(share * n + 1e-9) for n in group_sizes.tolist()], dtype=torch.long)
        train = (rank < counts.repeat_interleave(group_sizes))[index]
        return self._only(train), self._only(~train)

    def _only(self, keep: Tensor) -> Triplets:
        parts = {
            name: getattr(self, name)[keep] for name in ("anchor", "positive", "negative", "centre", "pair")
        }
        return Triplets(**parts, centres=self.centres, no_pair=self.no_pair, no_negative=self.no_negative)


@dataclass(frozen=True, kw_only=True)
class ClassTripletMiner:
    """Pairs of one class against items of all others.

    A class of k items has k·(k - 1)/2 pairs, twice that when ordered.

    ``ap_pairs``: pairs drawn a class, None for all; ``an_pairs``: negatives drawn a class, all where there
    are fewer. ``ordered``: (a, p) and (p, a) are two pairs (the detection notebook); else one (the
    identification code).
    Speakers with 3 + 1 utterances, unordered, 50 negatives: 6·50 triplets a speaker, 200 for training and 100
    for validation.
    """

    ap_pairs: int | None = None
    an_pairs: int = 50
    ordered: bool = False

    def __post_init__(self) -> None:
        for name in ("ap_pairs", "an_pairs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"ClassTripletMiner: {name} must be at least 1, got {value}")

    def mine(self, labels: Tensor, seed: int) -> Triplets:
        """``labels`` (N,) integers. Raises: ConfigError when there is no triplet at all, saying why."""
        if labels.ndim != 1 or labels.is_floating_point():
            raise ConfigError(
                "ClassTripletMiner: labels must be integers of shape (N,), "
                f"got {labels.dtype} {tuple(labels.shape)}"
            )
        draw = torch.Generator().manual_seed(seed)
        labels = labels.cpu()

        def centres() -> Iterator[tuple[Tensor, Tensor]]:
            for c in labels.unique():
                same = (labels == c).nonzero().squeeze(1)
                pairs = _pairs(same)
                if self.ordered:
                    pairs = torch.cat([pairs, pairs.flip(1)])
                diff = (labels != c).nonzero().squeeze(1)
                yield _sample(pairs, self.ap_pairs, draw), _sample(diff, self.an_pairs, draw)

        hint = "a class needs two items, and there must be two classes"
        return _crossed(centres(), f"ClassTripletMiner: no triplet from {len(labels)} items: {hint}")


@dataclass(frozen=True, kw_only=True)
class RegressionTripletMiner:
    """Around the label of every item: pairs of items near it against items far from it.

    same = |y - y_c| <= pos_radius, diff = |y - y_c| >= neg_radius. Up to ``run`` items in ``same``, all their
    pairs; beyond, a run of ``run`` items that follow each other by index, and ``pairs`` of its pairs. Of
    ``diff``, ``negatives`` items, all up to ``run``.
    Both members of a pair are drawn from ``same`` and the centre need not be one: |y_a - y_p| <= 2·pos_radius
    and |y_a - y_n| >= neg_radius - pos_radius, so a negative is surely farther than a positive only if
    neg_radius > 3·pos_radius.
    ``index_runs`` True, as published, makes triplets depend on the order of the rows; False draws ``pairs``
    from all pairs.
    """

    pos_radius: float = 0.1
    neg_radius: float = 0.5
    run: int = 15
    pairs: int = 10
    negatives: int = 10
    index_runs: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.pos_radius < self.neg_radius < float("inf"):
            raise ConfigError(
                "RegressionTripletMiner: 0 <= pos_radius < neg_radius must hold, "
                f"got {self.pos_radius} and {self.neg_radius}"
            )
        for name, minimum in (("run", 2), ("pairs", 1), ("negatives", 1)):
            if getattr(self, name) < minimum:
                raise ConfigError(
                    f"RegressionTripletMiner: {name} must be at least {minimum}, got {getattr(self, name)}"
                )

    def mine(self, labels: Tensor, seed: int) -> Triplets:
        """``labels`` (N,) numbers. Raises: ConfigError for one that is not finite, or when there is no
        triplet at all.
        """
        y = labels.detach().cpu().double()
        if y.ndim != 1 or not bool(y.isfinite().all()):
            raise ConfigError(
                "RegressionTripletMiner: labels must be finite numbers of shape (N,), "
                f"got shape {tuple(y.shape)}"
            )
        draw = torch.Generator().manual_seed(seed)

        def centres() -> Iterator[tuple[Tensor, Tensor]]:
            for centre in y:
                distance = (y - centre).abs()
                same, diff = (
                    (distance <= self.pos_radius).nonzero().squeeze(1),
                    (distance >= self.neg_radius).nonzero().squeeze(1),
                )
                negatives = _sample(diff, None if len(diff) <= self.run else self.negatives, draw)
                yield self._pairs_of_run(same, draw), negatives

        hint = (
            f"no item has both a pair within {self.pos_radius:g} and a negative {self.neg_radius:g} away; "
            "are the labels on that scale?"
        )
        return _crossed(centres(), f"RegressionTripletMiner: no triplet from {len(y)} items: {hint}")

    def _pairs_of_run(self, same: Tensor, draw: torch.Generator) -> Tensor:
        if len(same) <= self.run:
            return _sample(_pairs(same), None, draw)
        if not self.index_runs:
            return same[_some_pairs(len(same), self.pairs, draw)]
        # every start: the original's leaves out the last, so that its 16th item of 16 is never drawn
        start = int(torch.randint(len(same) - self.run + 1, (), generator=draw))
        return _sample(_pairs(same[start : start + self.run]), self.pairs, draw)


def _pairs(items: Tensor) -> Tensor:
    """(P, 2) unordered pairs of different items."""
    return torch.tensor(list(combinations(items.tolist(), 2)), dtype=torch.long).reshape(-1, 2)


def _some_pairs(n: int, count: int, draw: torch.Generator) -> Tensor:
    """(count, 2) different unordered pairs of 0 … n - 1, uniformly; all n·(n - 1)/2 need not be written down
    for it.
    """
    total = n * (n - 1) // 2
    order: dict[int, None] = {}  # a set that remembers the order
    while len(order) < min(count, total):
        order[int(torch.randint(total, (), generator=draw))] = None
    second = [(1 + isqrt(1 + 8 * code)) // 2 for code in order]  # pairs (i, j), i < j, numbered by j, then i
    return torch.tensor(
        [[code - j * (j - 1) // 2, j] for code, j in zip(order, second, strict=True)], dtype=torch.long
    ).reshape(-1, 2)


def _sample(items: Tensor, count: int | None, draw: torch.Generator) -> Tensor:
    """``count`` of the items (all for None or too few), in random order: the order decides who trains and who
    validates.
    """
    return items[torch.randperm(len(items), generator=draw)[:count]]


def _crossed(centres: Iterator[tuple[Tensor, Tensor]], nothing: str) -> Triplets:
    columns: list[Tensor] = []
    tried = no_pair = no_negative = pairs_before = 0
    for tried, (pairs, negatives) in enumerate(centres, start=1):
        if not len(pairs):
            no_pair += 1
            continue
        if not len(negatives):
            no_negative += 1
            continue
        pair = torch.arange(len(pairs)).repeat_interleave(len(negatives))
        centre = torch.full_like(pair, tried - 1)
        columns.append(
            torch.stack(
                [pairs[pair, 0], pairs[pair, 1], negatives.repeat(len(pairs)), centre, pair + pairs_before]
            )
        )
        pairs_before += len(pairs)
    if not columns:
        raise ConfigError(nothing)
    anchor, positive, negative, centre, pair = torch.cat(columns, dim=1)
    return Triplets(
        anchor=anchor,
        positive=positive,
        negative=negative,
        centre=centre,
        pair=pair,
        centres=tried,
        no_pair=no_pair,
        no_negative=no_negative,
    )
