"""Gated feed-forward layer with a tanh-approximated GELU, the channel mixer of every Gemma.

Legend: D width, F ffn_width (of ONE branch: Gemma's reports print gate and up together, twice this).
Source: arXiv 2002.05202; google/gemma_pytorch gemma/model.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blocks.contract import BlockConfig, ChannelMixer
from blocks.cost import Cost, total
from blocks.errors import ConfigError
from blocks.linear import dense
from blocks.ops.geglu import geglu
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class GeGLUConfig(BlockConfig):
    width: int
    ffn_width: int

    def __post_init__(self) -> None:
        for name in ("width", "ffn_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"GeGLUConfig: {name} must be at least 1, got {getattr(self, name)}")


@register("geglu", kind="channel_mixer", config=GeGLUConfig, source="arXiv:2002.05202", complexity="O(T)")
class GeGLU(ChannelMixer):
    """down(gelu(gate(x)) * up(x)), no biases.

    Shape: (..., D) -> (..., D). Cost: 3·D·F weights, 6·D·F FLOPs per token; elementwise 10·F per token (9 for
    the tanh form of GELU, 1 for the gate). Raises: ConfigError for a width below 1.
    """

    config: GeGLUConfig

    def __init__(self, config: GeGLUConfig) -> None:
        super().__init__(config)
        self.gate = dense(config.width, config.ffn_width)
        self.up = dense(config.width, config.ffn_width)
        self.down = dense(config.ffn_width, config.width)

    def reset_parameters(self) -> None:
        for linear in (self.gate, self.up, self.down):
            linear.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return geglu(x, self.gate.weight, self.up.weight, self.down.weight)

    def cost(self, tokens: int) -> Cost:
        linear = total(block.cost(tokens) for block in (self.gate, self.up, self.down))
        return linear + Cost(elementwise=10 * tokens * self.config.ffn_width)
