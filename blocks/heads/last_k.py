"""Mean of the last K tokens. Legend: T tokens, D width. Source: arXiv 2503.02656 (Gemma Encoder), which calls it Last-K."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blocks.contract import Pooler
from blocks.cost import Cost
from blocks.heads.pooling import PoolerConfig, average, tokens_of
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class LastKPoolerConfig(PoolerConfig):
    k: int = 1

    def __post_init__(self) -> None:
        self.at_least_one("width", "k")


@register("last_k", kind="pooler", config=LastKPoolerConfig, source="arXiv:2503.02656", causal=False)
class LastKPooler(Pooler):
    """Average of the last k valid tokens, of all where there are fewer; zeros where there is none.

    On a causal encoder this is the pooler whose tokens have seen the text (k = 1: all of it).
    Shape: (B, T, D) -> (B, D). Cost: no weights, min(k, T)·D elementwise FLOPs. Raises: ConfigError for a width or k below 1.
    """

    config: LastKPoolerConfig

    def reset_parameters(self) -> None:
        pass  # it has none

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        real = tokens_of(x, valid)
        return average(x, real & (real.flip(1).cumsum(dim=1).flip(1) <= self.config.k))

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=min(self.config.k, tokens) * self.config.width)
