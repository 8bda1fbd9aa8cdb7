"""Monarch Mixer for images: Hyena's image model with the released block-diagonal maps in its MLP.

Legend: D width, F ffn_width, K blocks, T patches.
The paper (arXiv 2310.12109 §5.2) reports M2-ViT-b at "45M" parameters; no code of it was released. It is
HyenaViT-b with long convolutions by Monarch and its MLP's matrices replaced, so this recipe is HyenaViT of
HazyResearch/safari, configs/experiment/imagenet/hyena-vit.yaml:
pre-norm layers, one gated long convolution a layer, 5 short taps, a filter network 33 -> 128 -> 128 -> D with
sine frequency 1, no positions, no class token, the mean of all tokens read. With the block-diagonal MLP (K =
4) its base size has 45,554,920 parameters; with the dense one (``mlp: dense``) it is HyenaViT-b itself,
88,022,248 against "88M" in the paper.

What the count decides, and what it leaves open. One direction: with a second filter for the patches that
follow (``bidirectional: true``) the base size has 46,984,936, which nobody would print as 45M; the published
filter is the causal one of the language models, run over patches in reading order. Fixed filter positions:
the released class trains them (T·33 numbers per layer, at a rate of 1e-5), which makes 45,632,536
(``train_positions: true``); both read 45M.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from arch_lab.models.image import ImageClassifierConfig
from arch_lab.models.image_recipe import ImageRecipe
from arch_lab.models.layer import LayerConfig
from arch_lab.models.recipe import Shape
from arch_lab.models.registry import register_architecture
from blocks.channel.mlp import MLPConfig
from blocks.contract import BlockConfig
from blocks.convolution.mixer import Ablation, Lags, M2MixerConfig
from blocks.monarch.glu import BlockDiagonalMLPConfig
from blocks.norm import LayerNormConfig

EPS = 1e-6  # of every LayerNorm, as its partner's


@register_architecture("m2_vit", source="arXiv:2310.12109 §5.2")
@dataclass(frozen=True, kw_only=True)
class M2ViT(ImageRecipe):
    """Pre-norm layers of ``m2_mixer`` and ``block_diagonal_mlp`` over patches, and a head on their mean.

    Without positions: its convolutions know the order of patches.
    """

    width_multiple: ClassVar[int] = 32  # keeps 4 (and 8, 16) blocks whole
    ffn_multiple: ClassVar[int] = 16

    bidirectional: bool = (
        False  # a second filter, for the patches that follow; the short convolution stays causal
    )
    mlp: Literal["block_diagonal", "dense"] = "block_diagonal"
    blocks: int = 4
    short_taps: int = 5
    filter_order: int = 128
    filter_emb: int = 33
    filter_inner: int = 1
    sine_frequency: float = 1.0
    train_positions: bool | None = None  # None: in a released start only
    residual_long_conv: bool = (
        False  # the residual stream is the short path it stands in for in the released BERT
    )
    taps: Lags = None
    ablate: Ablation = ()
    start: Literal["balanced", "released"] = (
        "balanced"  # initial values, rates and decay of filters, see blocks.convolution.mixer and blocks.monarch.glu
    )

    def classifier(self, shape: Shape, *, classes: int) -> ImageClassifierConfig:
        mixer = M2MixerConfig(
            width=shape.width,
            max_tokens=self.tokens,
            causal=not self.bidirectional,
            short_taps=self.short_taps,
            filter_order=self.filter_order,
            filter_emb=self.filter_emb,
            filter_inner=self.filter_inner,
            sine_frequency=self.sine_frequency,
            train_positions=self.train_positions,
            residual_long_conv=self.residual_long_conv,
            taps=self.taps,
            ablate=self.ablate,
            start=self.start,
        )
        layer = LayerConfig(
            mixer=mixer, channel=self._channel(shape), norm=LayerNormConfig(width=shape.width, eps=EPS)
        )
        return self.with_layers(layer, shape, classes=classes, positions=False, pool="mean", eps=EPS)

    def _channel(self, shape: Shape) -> BlockConfig:
        if self.mlp == "dense":
            return MLPConfig(width=shape.width, ffn_width=shape.ffn_width)
        return BlockDiagonalMLPConfig(
            width=shape.width,
            ffn_width=shape.ffn_width,
            blocks=self.blocks,
            up_bias=True,
            start="fan_in" if self.start == "balanced" else "released",
        )
