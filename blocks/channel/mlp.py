"""The plain feed-forward layer of the first Transformers and of ViT.

Two maps with biases and a GELU between them.

Legend: D width, F ffn_width.
Source: arXiv 2010.11929 §3.1; with ``linear: monarch`` both maps are Monarch matrices, as in arXiv
2204.00595.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from blocks.contract import BlockConfig, ChannelMixer
from blocks.cost import Cost
from blocks.monarch.block_diagonal import check_blocks
from blocks.monarch.monarch_linear import LinearKind, linear_map
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class MLPConfig(BlockConfig):
    width: int
    ffn_width: int
    linear: LinearKind = "dense"
    blocks: int = 4  # of a Monarch factor

    def __post_init__(self) -> None:
        check_blocks(
            self.blocks if self.linear == "monarch" else 1, width=self.width, ffn_width=self.ffn_width
        )


@register("mlp", kind="channel_mixer", config=MLPConfig, source="arXiv:2010.11929 §3.1")
class MLP(ChannelMixer):
    """down(gelu(up(x))), exact (erf) GELU, both maps with a bias.

    Shape: (..., D) -> (..., D). Cost: 2·D·F + F + D weights and 4·D·F FLOPs per token when dense, those of
    MonarchLinear otherwise; elementwise 1 a GELU, 1 a bias. Raises: ConfigError for a width below 1.
    """

    config: MLPConfig

    def __init__(self, config: MLPConfig) -> None:
        super().__init__(config)
        self.up = linear_map(config.linear, config.width, config.ffn_width, blocks=config.blocks)
        self.down = linear_map(config.linear, config.ffn_width, config.width, blocks=config.blocks)

    def reset_parameters(self) -> None:
        self.up.reset_parameters()
        self.down.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(x)))
        return y

    def cost(self, tokens: int) -> Cost:
        return (
            self.up.cost(tokens) + self.down.cost(tokens) + Cost(elementwise=tokens * self.config.ffn_width)
        )
