"""The gated channel mixer of a layer, dense or block-diagonal: one option of the recipes on both sides.

Legend: D width, F ffn_width, K blocks.
"""

from __future__ import annotations

from typing import Annotated, Literal

from arch_lab.models.recipe import Recipe, Shape
from blocks.channel.glu import GeGLUConfig
from blocks.config import Bounds, Doc
from blocks.contract import BlockConfig
from blocks.errors import ConfigError
from blocks.monarch.glu import BlockDiagonalGLUConfig

ChannelKind = Literal["dense", "block_diagonal"]
Channel = Annotated[
    ChannelKind, Doc("Channel mixer: Gemma's dense GeGLU, or Monarch Mixer's block-diagonal gated unit.")
]
Blocks = Annotated[int, Bounds(minimum=1), Doc("Blocks of a block-diagonal channel mixer.")]
BLOCKS = 4  # the default, that of the released M2-BERT
# steps of the ffn width that a solver may take
FFN_MULTIPLE: dict[ChannelKind, int] = {"dense": Recipe.ffn_multiple, "block_diagonal": 16}


def gated_channel(
    kind: ChannelKind, shape: Shape, *, blocks: int, start: Literal["released", "fan_in"] = "fan_in"
) -> BlockConfig:
    """6·D·F FLOPs per token dense, 6·D·F/K block-diagonal.

    ``start``: initial values of the block-diagonal one. The rule of dense maps is "fan_in".
    """
    if kind == "dense":
        return GeGLUConfig(width=shape.width, ffn_width=shape.ffn_width)
    return BlockDiagonalGLUConfig(width=shape.width, ffn_width=shape.ffn_width, blocks=blocks, start=start)


def check_channel(title: str, kind: ChannelKind, blocks: int) -> None:
    """Raises: ConfigError for blocks of a dense channel mixer."""
    if kind == "dense" and blocks != BLOCKS:
        raise ConfigError(f"{title}: blocks = {blocks} needs channel: block_diagonal")
