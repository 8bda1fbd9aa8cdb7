"""Where a language model's loss lies: tokens that a window lets it recall, the rest, and each position.

Legend: B batch, T tokens, V vocabulary.
A recall token is the second token of a bigram that (a) occurred earlier in the same window and (b) is rare in the
training text, so that a model must have read it in the window. Source: Zoology (arXiv 2312.04927), where such tokens
are 6.4 % of all and 82 % of the gap between attention and gated convolutions. The split is a correlation: a token
that could be recalled may be guessed for other reasons.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from arch_lab.metrics.recall_scores import RecallScores

BINS = 12  # of positions, evenly spread over the logarithm


class RecallSplit(Metric):
    """Sums of nats and tokens, on recall tokens, on the rest, and by position.

    ``update(nats, inputs, targets, valid)``, each (B, T); special tokens (0 bytes) count nowhere.
    """

    full_state_update = False
    nats: Tensor
    tokens: Tensor
    position_nats: Tensor
    position_tokens: Tensor

    def __init__(
        self, bigrams: tuple[np.ndarray, np.ndarray], token_bytes: Tensor, *, length: int, at_most: int
    ) -> None:
        """``bigrams``: sorted keys (first · V + second) of the training text, and how often each occurs."""
        super().__init__()
        keys, counts = bigrams
        self.at_most, self.vocabulary = at_most, len(token_bytes)
        frequent = torch.from_numpy(np.ascontiguousarray(keys[counts > at_most]))
        self.register_buffer("frequent", frequent, persistent=False)
        self.register_buffer("is_text", token_bytes > 0, persistent=False)
        for name, size in (
            ("nats", 2),
            ("tokens", 2),
            ("position_nats", length),
            ("position_tokens", length),
        ):
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nats: Tensor, inputs: Tensor, targets: Tensor, valid: Tensor) -> None:
        scored = valid & self.is_text[targets]  # type: ignore[index]
        keys = inputs * self.vocabulary + targets
        recall = repeated(keys) & self._is_rare(keys)
        nats = nats.double()
        for kind, chosen in enumerate((scored & recall, scored & ~recall)):
            self.nats[kind] += nats.mul(chosen).sum()
            self.tokens[kind] += chosen.sum()
        self.position_nats += nats.mul(scored).sum(0)
        self.position_tokens += scored.sum(0)

    def _is_rare(self, keys: Tensor) -> Tensor:
        frequent: Tensor = self.frequent  # type: ignore[assignment]
        if not len(frequent):
            return torch.ones_like(keys, dtype=torch.bool)
        place = torch.searchsorted(frequent, keys).clamp(max=len(frequent) - 1)
        return frequent[place] != keys

    def compute(self) -> Tensor:
        """Nats and tokens of recall tokens and of the rest (2, 2)."""
        return torch.stack([self.nats, self.tokens])

    def scores(self) -> RecallScores:
        """What was measured so far, over all devices."""
        (recall_nats, rest_nats), (recall_tokens, rest_tokens) = self.compute()
        length = len(self.position_nats)
        ends = sorted({max(1, round(length ** (i / BINS))) for i in range(1, BINS + 1)})
        bins = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        return RecallScores(
            at_most=self.at_most,
            recall_tokens=int(recall_tokens),
            rest_tokens=int(rest_tokens),
            recall_bits=_bits(recall_nats, recall_tokens),
            rest_bits=_bits(rest_nats, rest_tokens),
            positions=tuple(ends),
            by_position=tuple(
                _bits(self.position_nats[b].sum(), self.position_tokens[b].sum()) for b in bins
            ),
        )


def repeated(keys: Tensor) -> Tensor:
    """Whether each key (B, T) occurred earlier in its row."""
    order = keys.argsort(dim=-1, stable=True)
    ordered = keys.gather(-1, order)
    again = torch.zeros_like(keys, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return torch.zeros_like(again).scatter(-1, order, again)


def _bits(nats: Tensor, tokens: Tensor) -> float | None:
    return float(nats / tokens) / math.log(2) if tokens > 0 else None
