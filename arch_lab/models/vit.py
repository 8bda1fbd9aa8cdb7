"""The Vision Transformer, attention's side of an image comparison.

Legend: D width, F ffn_width, C head width, T patches.
Source: arXiv 2010.11929 (pre-norm layers, GELU MLP, learned positions, a class token), as
google-research/vision_transformer and timm build it: LayerNorm eps 1e-6, biases everywhere. Left out:
dropout, stochastic depth, the tanh layer of its pre-training head.
``linear: monarch`` makes all six matrices of a layer Monarch matrices of 4 blocks: the "ViT-b + Monarch" of
Monarch Mixer's paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from arch_lab.models.image import ImageClassifierConfig
from arch_lab.models.image_recipe import ImageRecipe, Pool
from arch_lab.models.layer import LayerConfig
from arch_lab.models.recipe import Shape
from arch_lab.models.registry import register_architecture
from blocks.attention.multi_head import MultiHeadAttentionConfig
from blocks.channel.mlp import MLPConfig
from blocks.errors import ConfigError
from blocks.monarch.monarch_linear import LinearKind
from blocks.norm import LayerNormConfig

EPS = 1e-6  # of every LayerNorm


@register_architecture("vit", source="arXiv:2010.11929")
@dataclass(frozen=True, kw_only=True)
class ViT(ImageRecipe):
    """Pre-norm layers of ``multi_head_attention`` and ``mlp`` over patches, and a head on the class token.

    ``pool: mean`` does without the class token. ``positions: false`` makes it blind to the order of patches.
    """

    ffn_multiple: ClassVar[int] = 8

    head_width: int = 64
    pool: Pool = "class"
    positions: bool = True
    linear: LinearKind = "dense"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_width < 1:
            raise ConfigError(f"{self.name}: head_width must be at least 1, got {self.head_width}")
        object.__setattr__(self, "width_multiple", self.head_width)  # whole heads

    def classifier(self, shape: Shape, *, classes: int) -> ImageClassifierConfig:
        if shape.width % self.head_width:
            raise ConfigError(
                f"{self.name}: width {shape.width} is not a multiple of head_width {self.head_width}"
            )
        layer = LayerConfig(
            mixer=MultiHeadAttentionConfig(
                width=shape.width, heads=shape.width // self.head_width, linear=self.linear
            ),
            channel=MLPConfig(width=shape.width, ffn_width=shape.ffn_width, linear=self.linear),
            norm=LayerNormConfig(width=shape.width, eps=EPS),
        )
        return self.with_layers(
            layer, shape, classes=classes, positions=self.positions, pool=self.pool, eps=EPS
        )
