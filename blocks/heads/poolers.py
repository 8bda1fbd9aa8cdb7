"""Poolers without attention: the mean, the largest value, the first token, the first K and the last K tokens.

Legend: B batch, T tokens, D width.
Sources: mean arXiv 2509.20354 (EmbeddingGemma: the best of its poolers on MTEB); max arXiv 1908.10084
(Sentence-BERT); cls arXiv 1810.04805 §3 and HazyResearch/m2, bert/src/bert_layers.py (BertPooler); first_k,
last_k arXiv 2503.02656 (Gemma Encoder).
A pooler reads one document per row. A mask marks padding, not a length, so its side does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blocks.contract import BlockConfig, Pooler
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.linear import Linear, LinearConfig
from blocks.norm import widened
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class PoolerConfig(BlockConfig):
    """``width``: D, of the tokens and of the pooled vector."""

    width: int

    def __post_init__(self) -> None:
        self.at_least_one("width")

    def at_least_one(self, *names: str) -> None:
        """Raises: ConfigError naming the first of these options below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{type(self).__name__}: {name} must be at least 1, got {getattr(self, name)}"
                )

    def divided_by_heads(self, heads: int) -> None:
        if self.width % heads:
            raise ConfigError(
                f"{type(self).__name__}: width {self.width} must be a multiple of heads {heads}"
            )


def tokens_of(x: Tensor, valid: Tensor | None) -> Tensor:
    """(B, T) bool, True at tokens. Raises: ConfigError for an empty sequence or a mask of another shape or
    type.
    """
    if x.ndim != 3 or x.shape[1] < 1:
        raise ConfigError(f"a pooler reads (batch, at least 1 token, width), got {tuple(x.shape)}")
    if valid is None:
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if valid.dtype != torch.bool or valid.shape != x.shape[:2]:
        shape = tuple(x.shape[:2])
        hint = "; for segments pass segments != 0, one document a row" if valid.dtype != torch.bool else ""
        raise ConfigError(
            f"valid must be bool of shape {shape}, got {valid.dtype} {tuple(valid.shape)}{hint}"
        )
    return valid


def cleared(x: Tensor, mask: Tensor) -> Tensor:
    """x with zeros where ``mask`` (the leading dimensions of x) is False.

    A weight of 0 times infinity would be NaN.
    """
    return x.masked_fill(~mask[..., None], 0)


def average(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over T of the tokens in ``mask``, x (B, T, D), mask (B, T) -> (B, D); zeros for an empty row.

    Summed in float32 or wider.
    """
    total = cleared(x, mask).sum(dim=1, dtype=widened(x.dtype))
    return (total / mask.sum(dim=1, keepdim=True).clamp_min(1)).to(x.dtype)


class WeightlessPooler(Pooler):
    """A pooler without parameters.

    Shape: (B, T, D) -> (B, D). Raises: ConfigError for a width or k below 1.
    """

    def reset_parameters(self) -> None:
        """Nothing to draw."""


@dataclass(frozen=True, kw_only=True)
class MeanPoolerConfig(PoolerConfig):
    pass


@register("mean", kind="pooler", config=MeanPoolerConfig, source="arXiv:2509.20354", causal=False)
class MeanPooler(WeightlessPooler):
    """Average of the valid tokens; zeros where there is none.

    Cost: no weights, T·D elementwise FLOPs.
    """

    config: MeanPoolerConfig

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return average(x, tokens_of(x, valid))

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=tokens * self.config.width)  # T - 1 sums and 1 division per channel


@dataclass(frozen=True, kw_only=True)
class MaxPoolerConfig(PoolerConfig):
    pass


@register("max", kind="pooler", config=MaxPoolerConfig, source="arXiv:1908.10084", causal=False)
class MaxPooler(WeightlessPooler):
    """Largest value of each channel over the valid tokens; zeros where there is none.

    Tied tokens share the gradient.

    Cost: no weights, T·D elementwise FLOPs.
    """

    config: MaxPoolerConfig

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        mask = tokens_of(x, valid)
        largest = x.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
        return cleared(largest, mask.any(dim=1))

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=tokens * self.config.width)


@dataclass(frozen=True, kw_only=True)
class FirstKPoolerConfig(PoolerConfig):
    k: int = 1

    def __post_init__(self) -> None:
        self.at_least_one("width", "k")


@register("first_k", kind="pooler", config=FirstKPoolerConfig, source="arXiv:2503.02656", causal=False)
class FirstKPooler(WeightlessPooler):
    """Average of the first k valid tokens, of all where there are fewer; zeros where there is none.

    k = 1 is the first token; on a causal encoder that token has seen nothing but itself.
    Cost: no weights, min(k, T)·D elementwise FLOPs.
    """

    config: FirstKPoolerConfig

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        mask = tokens_of(x, valid)
        return average(x, mask & (mask.cumsum(dim=1) <= self.config.k))

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=min(self.config.k, tokens) * self.config.width)


@dataclass(frozen=True, kw_only=True)
class LastKPoolerConfig(PoolerConfig):
    k: int = 1

    def __post_init__(self) -> None:
        self.at_least_one("width", "k")


@register("last_k", kind="pooler", config=LastKPoolerConfig, source="arXiv:2503.02656", causal=False)
class LastKPooler(WeightlessPooler):
    """Average of the last k valid tokens, of all where there are fewer; zeros where there is none.

    On a causal encoder this is the pooler whose tokens have seen the text (k = 1: all of it).
    Cost: no weights, min(k, T)·D elementwise FLOPs.
    """

    config: LastKPoolerConfig

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        mask = tokens_of(x, valid)
        return average(x, mask & (mask.flip(1).cumsum(dim=1).flip(1) <= self.config.k))

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=min(self.config.k, tokens) * self.config.width)


@dataclass(frozen=True, kw_only=True)
class ClsPoolerConfig(PoolerConfig):
    dense: bool = True  # False: the bare token, which is first_k with k = 1


@register(
    "cls",
    kind="pooler",
    config=ClsPoolerConfig,
    source="arXiv:1810.04805 §3",
    complexity="O(1)",
    causal=False,
)
class ClsPooler(Pooler):
    """tanh(W x + b) of the first valid token; zeros where there is none, without the bias.

    On a causal encoder the first token has seen nothing but itself: the answer would not depend on the text.
    Shape: (B, T, D) -> (B, D). Cost: D² + D weights, 2·D² FLOPs per sequence; elementwise D bias, D tanh.
    Raises: ConfigError for a width below 1.
    """

    config: ClsPoolerConfig

    def __init__(self, config: ClsPoolerConfig) -> None:
        super().__init__(config)
        self.dense = (
            Linear(LinearConfig(in_features=config.width, out_features=config.width))
            if config.dense
            else None
        )

    def reset_parameters(self) -> None:
        if self.dense is not None:
            self.dense.reset_parameters()

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        mask = tokens_of(x, valid)
        first = mask.to(torch.uint8).argmax(dim=1)  # of equal maxima, argmax takes the first
        token = cleared(x.take_along_dim(first[:, None, None], dim=1).squeeze(1), mask.any(dim=1))
        if self.dense is None:
            return token
        return cleared(torch.tanh(self.dense(token)), mask.any(dim=1))

    def cost(self, tokens: int) -> Cost:
        return Cost() if self.dense is None else self.dense.cost(1) + Cost(elementwise=self.config.width)
