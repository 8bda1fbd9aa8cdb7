"""Mean pooling. Legend: T tokens, D width. Source: arXiv 2509.20354 (EmbeddingGemma): the best of its poolers on MTEB."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blocks.contract import Pooler
from blocks.cost import Cost
from blocks.heads.pooling import PoolerConfig, average, tokens_of
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class MeanPoolerConfig(PoolerConfig):
    pass


@register("mean", kind="pooler", config=MeanPoolerConfig, source="arXiv:2509.20354", causal=False)
class MeanPooler(Pooler):
    """Average of the valid tokens; zeros where there is none.

    Shape: (B, T, D) -> (B, D). Cost: no weights, T·D elementwise FLOPs. Raises: ConfigError for a width below 1.
    """

    config: MeanPoolerConfig

    def reset_parameters(self) -> None:
        pass  # it has none

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return average(x, tokens_of(x, valid))

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=tokens * self.config.width)  # T - 1 sums and 1 division a channel
