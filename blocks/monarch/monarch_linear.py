"""Two-factor Monarch linear map: two block-diagonal products with a transposition between them.

Legend: I in_features, O out_features, M rows; first factor w1 (K, Q, P), second factor w2 (L, S, R); K·P
inputs, K·Q = L·R hidden, L·S outputs. Nothing has to be square.
Source: arXiv 2204.00595; index map of HazyResearch/fly,
src/models/layers/{blockdiag_butterfly_multiply,monarch_linear}.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.contract import Block, BlockConfig
from blocks.cost import Cost
from blocks.init import fan_in_uniform_
from blocks.linear import Linear, LinearConfig
from blocks.monarch.block_diagonal import check_blocks, dense_weight
from blocks.monarch.projection import project_pair
from blocks.ops.monarch import monarch_matmul
from blocks.registry import register

LinearKind = Literal["dense", "monarch"]


@dataclass(frozen=True, kw_only=True)
class MonarchLinearConfig(BlockConfig):
    in_features: int
    out_features: int
    blocks: int = 4
    bias: bool = True

    def __post_init__(self) -> None:
        check_blocks(self.blocks, in_features=self.in_features, out_features=self.out_features)


@register("monarch_linear", kind="linear", config=MonarchLinearConfig, source="arXiv:2204.00595 §3")
class MonarchLinear(Block):
    """A linear map with every output reaching every input at 1/``blocks`` of the dense weights a factor.

    Shape: (..., I) -> (..., O), any leading dimensions. The square factor stands on the narrower side: with
    p = ceil(I/K), q = ceil(O/K) the factors are (K, p, p), (K, q, p) when I < O, else (K, q, p), (K, q, q).
    Cost: (I² + I·O)/K or (I·O + O²)/K weights when K divides both (+ O), twice that in FLOPs per token.
    Initialisation: each factor U(±1/sqrt(its last size)), bias U(±1/sqrt(O)), as released.
    Raises: ConfigError when ``blocks`` exceeds a width.
    """

    config: MonarchLinearConfig

    def __init__(self, config: MonarchLinearConfig) -> None:
        super().__init__(config)
        k = config.blocks
        p, q = -(-config.in_features // k), -(-config.out_features // k)
        hidden = p if config.in_features < config.out_features else q
        self.first = nn.Parameter(torch.empty(k, hidden, p))
        self.second = nn.Parameter(torch.empty(k, q, hidden))
        self.bias = nn.Parameter(torch.empty(config.out_features)) if config.bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for factor in (self.first, self.second):
            fan_in_uniform_(factor, factor.shape[-1])
        if self.bias is not None:
            fan_in_uniform_(self.bias, self.config.out_features)

    @classmethod
    @torch.no_grad()
    def from_dense(cls, weight: Tensor, bias: Tensor | None = None, *, blocks: int = 4) -> MonarchLinear:
        """The layer nearest to the dense map y = W x + b.

        Weight (O, I), bias (O,), in their dtype and on their device.

        Frobenius-optimal for the layer's factor shapes (blocks.monarch.projection), exact when W is such a
        product.
        Widths that ``blocks`` does not divide are completed with zeros, which costs nothing: the best
        approximation of a block with zero rows has zero rows.
        Raises: ConfigError when ``blocks`` exceeds a width.
        """
        o, i = weight.shape
        layer = cls(
            MonarchLinearConfig(in_features=i, out_features=o, blocks=blocks, bias=bias is not None)
        ).to(weight)
        (k, _, p), (length, s, _) = layer.first.shape, layer.second.shape
        first, second = project_pair(
            F.pad(weight, (0, k * p - i, 0, length * s - o)), layer.first.shape, layer.second.shape
        )
        layer.first.copy_(first)
        layer.second.copy_(second)
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
        return layer

    @torch.no_grad()
    def dense(self) -> Linear:
        """An equal dense layer with its own weights."""
        bias = self.bias is not None
        config = LinearConfig(
            in_features=self.config.in_features, out_features=self.config.out_features, bias=bias
        )
        layer = Linear(config).to(self.first)
        layer.weight.copy_(self.dense_weight())
        if self.bias is not None and layer.bias is not None:
            layer.bias.copy_(self.bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        padding = self.first.shape[0] * self.first.shape[2] - self.config.in_features
        if padding:
            x = F.pad(x, (0, padding))
        y = monarch_matmul(x, self.first, self.second)[..., : self.config.out_features]
        return y if self.bias is None else y + self.bias

    def dense_weight(self) -> Tensor:
        """(O, I): the dense matrix this layer is."""
        return dense_weight(self, self.config.in_features)

    def cost(self, tokens: int) -> Cost:
        bias = self.config.out_features if self.bias is not None else 0
        return Cost(matmul=2 * tokens * (self.first.numel() + self.second.numel()), elementwise=tokens * bias)


def linear_map(
    kind: LinearKind, in_features: int, out_features: int, *, blocks: int = 4, bias: bool = True
) -> Block:
    """The map (..., I) -> (..., O) that an option names; ``blocks``: of each Monarch factor."""
    if kind == "dense":
        return Linear(LinearConfig(in_features=in_features, out_features=out_features, bias=bias))
    return MonarchLinear(
        MonarchLinearConfig(in_features=in_features, out_features=out_features, blocks=blocks, bias=bias)
    )
