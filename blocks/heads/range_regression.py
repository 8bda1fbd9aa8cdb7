"""Numbers of a bounded scale, such as the 0 to 5 of STS-B, that cannot leave it.

Legend: D width, F hidden, z logit, s sigmoid(z), t target, p = (t - low) / (high - low) its place on the
scale.
Map: y = low + (high - low)·s(z), strictly rising in z, so the order of answers, and Spearman's correlation
with it, is that of the logits (until s rounds to 1: z about 17 in float32).
Loss: the cross-entropy -p·log s - (1 - p)·log(1 - s), less its own minimum, the entropy of p. It is a proper
score: for targets that vary at one x its expectation is least where s is the mean of p, which is what the
squared error aims at; but its gradient in z is s - p, where the squared error's is (s - p)·s·(1 - s) and dies
at the ends of the scale. This is the quasi-likelihood of fractional logit models (Papke and Wooldridge,
Journal of Applied Econometrics 11(6), 1996).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor
from torch.nn import functional as F

from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.heads.base import Readout, ReadoutConfig, TaskHead
from blocks.norm import widened
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class RangeRegressionHeadConfig(ReadoutConfig):
    low: float = 0.0
    high: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                "RangeRegressionHeadConfig: low must be below high, both finite, "
                f"got {self.low} and {self.high}"
            )


@register(
    "range_regression",
    kind="head",
    config=RangeRegressionHeadConfig,
    source="fractional logit, Papke and Wooldridge 1996",
)
class RangeRegressionHead(TaskHead):
    """One number per vector, confined to [low, high].

    Loss: cross-entropy of its position on the scale, 0 at a perfect answer.
    Shape: (..., D) -> (..., 1). Cost: as ``Readout`` with 1 output; elementwise 4 for the map.
    Raises: ConfigError for an empty range, from the loss for a target outside it.
    """

    config: RangeRegressionHeadConfig

    def __init__(self, config: RangeRegressionHeadConfig) -> None:
        super().__init__(config)
        self.readout = Readout(config, 1)

    def reset_parameters(self) -> None:
        self.readout.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.readout(x)
        low, high = self.config.low, self.config.high
        y = low + (high - low) * torch.sigmoid(z.to(widened(z.dtype)))
        return y.clamp(low, high).to(z.dtype)  # low + (high - low) may round past high: 0.1 and 0.3 do

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """``target`` (...) or (..., 1). Raises: ConfigError when one is outside the range or not a number."""
        z = self.readout(x)
        wide, low, high = widened(z.dtype), self.config.low, self.config.high
        p = (target.to(wide).reshape(z.shape) - low) / (high - low)
        if not torch.compiler.is_compiling() and not bool(((p >= 0) & (p <= 1)).all()):
            wrong = target.flatten()[~((p >= 0) & (p <= 1)).flatten()][0].item()
            raise ConfigError(f"range_regression: target {wrong:g} is not in [{low:g}, {high:g}]")
        entropy = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))
        return F.binary_cross_entropy_with_logits(z.to(wide), p) - entropy.mean()

    def predict(self, x: Tensor) -> Tensor:
        y: Tensor = self(x)
        return y.squeeze(-1)

    def cost(self, tokens: int) -> Cost:
        return self.readout.cost(tokens) + Cost(elementwise=4 * tokens)
