"""Channel mixers of Monarch Mixer: a gated unit and a plain MLP whose linear maps are block-diagonal.

Legend: D width, F ffn_width, K blocks.
Source: arXiv 2310.12109; HazyResearch/m2, bert/src/bert_layers.py (BertGatedLinearUnitMLP, BertMLP), without
their residual, dropout and norm, which belong to the layer around the mixer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from blocks.contract import BlockConfig, ChannelMixer
from blocks.cost import Cost
from blocks.monarch.block_diagonal import BlockDiagonalLinear, BlockDiagonalLinearConfig, check_blocks
from blocks.ops.glu import block_diagonal_glu
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class BlockDiagonalGLUConfig(BlockConfig):
    width: int
    ffn_width: int  # hidden channels of one branch
    blocks: int = 4
    bias: bool = True  # of the map down; the map up has none, as released
    start: Literal["released", "fan_in"] = "released"

    def __post_init__(self) -> None:
        check_blocks(self.blocks, width=self.width, ffn_width=self.ffn_width)


@register(
    "block_diagonal_glu", kind="channel_mixer", config=BlockDiagonalGLUConfig, source="arXiv:2310.12109 §3"
)
class BlockDiagonalGLU(ChannelMixer):
    """down(gelu(gate) * value), exact (erf) GELU; gate and value are the halves of one block-diagonal map.

    Shape: (..., D) -> (..., D). Because the halves are cut across the blocks, the gate sees the first half of
    the channels and the value the second (K even); all other channel mixing is left to the sequence mixer's
    projections.
    Cost: 6·D·F/K FLOPs per token; elementwise 1 a GELU, 1 a product, 1 a bias.
    Initialisation: as released (see BlockDiagonalLinear), or ``start="fan_in"``: N(0, 1/inputs of a block),
    zero bias, the rule of this library's dense maps. The released draw returns 0.12 of a unit input's size
    where a dense GeGLU returns 0.66; post-norm layers hide that, in a pre-norm model it silenced the channel
    mixer for hundreds of steps.
    """

    config: BlockDiagonalGLUConfig

    def __init__(self, config: BlockDiagonalGLUConfig) -> None:
        super().__init__(config)
        self.up = _linear(config.width, 2 * config.ffn_width, config.blocks, bias=False)
        self.down = _linear(config.ffn_width, config.width, config.blocks, bias=config.bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset((self.up, self.down), self.config.start)

    def forward(self, x: Tensor) -> Tensor:
        if self.config.width % self.config.blocks == self.config.ffn_width % self.config.blocks == 0:
            return block_diagonal_glu(x, self.up.weight, self.down.weight, self.down.bias)
        gate, value = self.up(x).chunk(2, dim=-1)  # padded blocks: cut after each map
        return self.down(F.gelu(gate) * value)

    def cost(self, tokens: int) -> Cost:
        return (
            self.up.cost(tokens)
            + self.down.cost(tokens)
            + Cost(elementwise=2 * tokens * self.config.ffn_width)
        )


@dataclass(frozen=True, kw_only=True)
class BlockDiagonalMLPConfig(BlockConfig):
    width: int
    ffn_width: int
    blocks: int = 4
    bias: bool = True  # of the map down
    up_bias: bool = False  # of the map up: none, as released
    start: Literal["released", "fan_in"] = "released"

    def __post_init__(self) -> None:
        check_blocks(self.blocks, width=self.width, ffn_width=self.ffn_width)


@register(
    "block_diagonal_mlp", kind="channel_mixer", config=BlockDiagonalMLPConfig, source="arXiv:2310.12109 §3"
)
class BlockDiagonalMLP(ChannelMixer):
    """down(gelu(up(x))), exact (erf) GELU, both maps block-diagonal.

    Shape: (..., D) -> (..., D). Without a shuffle the K channel groups never meet inside this mixer.
    Cost: 4·D·F/K FLOPs per token; elementwise 1 a GELU, 1 a bias. Initialisation: ``start`` as in
    BlockDiagonalGLU.
    """

    config: BlockDiagonalMLPConfig

    def __init__(self, config: BlockDiagonalMLPConfig) -> None:
        super().__init__(config)
        self.up = _linear(config.width, config.ffn_width, config.blocks, bias=config.up_bias)
        self.down = _linear(config.ffn_width, config.width, config.blocks, bias=config.bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset((self.up, self.down), self.config.start)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))

    def cost(self, tokens: int) -> Cost:
        return (
            self.up.cost(tokens) + self.down.cost(tokens) + Cost(elementwise=tokens * self.config.ffn_width)
        )


def _reset(layers: tuple[BlockDiagonalLinear, ...], start: str) -> None:
    for layer in layers:
        layer.reset_parameters()
        if start == "fan_in":
            nn.init.normal_(layer.weight, std=layer.weight.shape[-1] ** -0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _linear(in_features: int, out_features: int, blocks: int, *, bias: bool) -> BlockDiagonalLinear:
    return BlockDiagonalLinear(
        BlockDiagonalLinearConfig(
            in_features=in_features, out_features=out_features, blocks=blocks, bias=bias
        )
    )
