"""The dense linear map, the baseline every structured one is compared with.

Legend: I in_features, O out_features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.contract import Block, BlockConfig
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class LinearConfig(BlockConfig):
    in_features: int
    out_features: int
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("in_features", "out_features"):
            if getattr(self, name) < 1:
                raise ConfigError(f"LinearConfig: {name} must be at least 1, got {getattr(self, name)}")


@register("linear", kind="linear", config=LinearConfig, source="dense baseline", complexity="O(T)")
class Linear(Block):
    """y = W x + b, W drawn from N(0, 1/sqrt(I)) so unit-variance input gives unit-variance output.

    Shape: (..., I) -> (..., O). Cost: I·O weights (+ O), 2·I·O FLOPs per token; the bias is elementwise.
    Raises: ConfigError for a width below 1.
    """

    config: LinearConfig

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.empty(config.out_features, config.in_features))
        self.bias = nn.Parameter(torch.empty(config.out_features)) if config.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.config.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def cost(self, tokens: int) -> Cost:
        config = self.config
        return Cost(
            matmul=2 * tokens * config.in_features * config.out_features,
            elementwise=tokens * config.out_features if config.bias else 0,
        )


def dense(in_features: int, out_features: int) -> Linear:
    """A linear map without bias, the form every projection of the Gemma family has."""
    return Linear(LinearConfig(in_features=in_features, out_features=out_features, bias=False))
