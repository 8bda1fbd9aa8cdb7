"""Language-model metrics weighted by valid tokens, independent of batching.

Legend: B batch, T tokens. Each metric keeps plain sums (float64) and divides once, at the end, which is what
makes the distributed reduction right: a mean of means is not. torchmetrics ships a Perplexity that repeats
the softmax on the logits; these share the one pass that already produced the loss, and a test holds them
equal to it. Bits per byte has no counterpart there.
Sources: bits per byte as in nanochat `loss_eval.py`; word perplexity as in lm-evaluation-harness (wikitext
task).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection


class TokenSums(Metric):
    """Sums of nats, tokens and bytes over scored targets; special tokens (0 bytes) are in none of the three.

    ``update(nats (B, T), targets (B, T), valid (B, T) bool)``. Raises: RuntimeError from torchmetrics when
    computed before any update.
    """

    full_state_update = False
    nats: Tensor
    tokens: Tensor
    bytes: Tensor

    def __init__(self, token_bytes: Tensor) -> None:
        super().__init__()
        self.register_buffer("token_bytes", token_bytes.long(), persistent=False)
        for name in ("nats", "tokens", "bytes"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nats: Tensor, targets: Tensor, valid: Tensor) -> None:
        width = self.token_bytes[targets]  # type: ignore[index]
        scored = valid & (width > 0)
        self.nats += nats.double().mul(scored).sum()
        self.tokens += scored.sum()
        self.bytes += width.mul(scored).sum()


class BitsPerByte(TokenSums):
    """sum of nats / (ln 2 * bytes of the text): comparable across tokenizers. Lower is better."""

    higher_is_better = False

    def compute(self) -> Tensor:
        return self.nats / (math.log(2) * self.bytes)


class TokenPerplexity(TokenSums):
    """exp(nats per token): comparable only under one tokenizer."""

    higher_is_better = False

    def compute(self) -> Tensor:
        return torch.exp(self.nats / self.tokens)


class WordPerplexity(TokenSums):
    """exp(nats per word) for a text of ``words`` words, ``bytes`` bytes.

    The words scored are in proportion to the bytes.

    Scoring skips the first token of a split, hence the proportion; for a whole split it differs from 1 by one
    token.
    """

    higher_is_better = False

    def __init__(self, token_bytes: Tensor, *, words: int, text_bytes: int) -> None:
        super().__init__(token_bytes)
        self.words_per_byte = words / text_bytes

    def compute(self) -> Tensor:
        return torch.exp(self.nats / (self.bytes * self.words_per_byte))


def language_metrics(token_bytes: Tensor, *, words: int, text_bytes: int) -> MetricCollection:
    """The three, by the names used in every table and file."""
    return MetricCollection(
        {
            "bits_per_byte": BitsPerByte(token_bytes),
            "perplexity": TokenPerplexity(token_bytes),
            "word_perplexity": WordPerplexity(token_bytes, words=words, text_bytes=text_bytes),
        },
        compute_groups=False,  # groups share state by reference, which resetting between splits would confuse
    )
