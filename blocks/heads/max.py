"""Max pooling. Legend: T tokens, D width. Source: arXiv 1908.10084 (Sentence-BERT), beside mean and CLS."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blocks.contract import Pooler
from blocks.cost import Cost
from blocks.heads.pooling import PoolerConfig, cleared, tokens_of
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class MaxPoolerConfig(PoolerConfig):
    pass


@register("max", kind="pooler", config=MaxPoolerConfig, source="arXiv:1908.10084", causal=False)
class MaxPooler(Pooler):
    """Largest value of each channel over the valid tokens; zeros where there is none. Tied tokens share the gradient.

    Shape: (B, T, D) -> (B, D). Cost: no weights, T·D elementwise FLOPs. Raises: ConfigError for a width below 1.
    """

    config: MaxPoolerConfig

    def reset_parameters(self) -> None:
        pass  # it has none

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        real = tokens_of(x, valid)
        largest = x.masked_fill(~real[..., None], float("-inf")).amax(dim=1)
        return cleared(largest, real.any(dim=1))

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=tokens * self.config.width)
