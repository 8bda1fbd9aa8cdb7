"""Monarch Mixer as a causal language model.

Legend: D width, F ffn_width, K blocks.
The paper (arXiv 2310.12109, section 5.3) reports M2-GPT models but no code or weights of them were ever
released, and their widths and depths were not published. ``m2_gpt`` is therefore an open reading, not a
reproduction: the released sequence mixer made causal, the released block-diagonal gated channel mixer, and
around them the body every decoder here shares (pre-norm residual layers, RMSNorm, tied scaled embedding), so
that an arm differs from attention in its blocks only.
``polynomial_order`` puts the paper's learned causal Monarch product where the convolution, its untrained
case, stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from arch_lab.models.channel import BLOCKS, FFN_MULTIPLE, Blocks, Channel, check_channel, gated_channel
from arch_lab.models.decoder import DecoderConfig
from arch_lab.models.layer import LayerConfig
from arch_lab.models.recipe import Recipe, Shape
from arch_lab.models.registry import register_architecture
from blocks.config import Options
from blocks.contract import BlockConfig
from blocks.convolution.mixer import Ablation, Lags, M2MixerConfig
from blocks.embedding import TiedEmbeddingConfig
from blocks.errors import ConfigError
from blocks.monarch.polynomial_mixer import MonarchPolynomialConfig
from blocks.norm import RMSNormConfig


@register_architecture("m2_gpt", source="arXiv:2310.12109 §5.3")
@dataclass(frozen=True, kw_only=True)
class M2GPT(Recipe):
    """Causal Monarch Mixer: pre-norm residual layers of ``m2_mixer`` and ``block_diagonal_glu``.

    No position encoding: the filters know the distance. The residual long convolution is off by default
    because the residual stream is already the short path it stands in for in the released BERT, which has no
    skip around its mixer.
    """

    width_multiple: ClassVar[int] = 32  # keeps 4 (and 8, 16) blocks whole
    ffn_multiple: ClassVar[int] = 16

    channel: Channel = "block_diagonal"
    blocks: Blocks = BLOCKS
    filter_order: int = 64
    filter_emb: int = 17
    sine_frequency: float = 10.0
    train_positions: bool | None = None  # of the filters; None: in a released start only
    residual_long_conv: bool = False
    taps: Lags = None
    ablate: Ablation = ()
    polynomial_order: int | None = (
        None  # None: long convolutions; 2 or more: learned causal Monarch products of that order
    )
    polynomial_groups: int = 1  # matrices a layer: channels of one group share one
    start: Literal["balanced", "released"] = (
        "balanced"  # initial values, rates and decay of filters, see blocks.convolution.mixer and blocks.monarch.glu
    )

    def __post_init__(self) -> None:
        if self.polynomial_order is None and self.polynomial_groups != 1:
            raise ConfigError(
                f"{self.name}: polynomial_groups = {self.polynomial_groups} needs a polynomial_order"
            )
        if self.polynomial_order is not None and (self.taps is not None or self.ablate):
            option = "ablate" if self.ablate else "taps"
            raise ConfigError(f"{self.name}: {option} is about convolutions; leave out polynomial_order")
        check_channel(f"architecture {self.name!r}", self.channel, self.blocks)
        object.__setattr__(self, "ffn_multiple", FFN_MULTIPLE[self.channel])

    def mixer(self, width: int, max_tokens: int) -> M2MixerConfig:
        common: Options = {
            "width": width,
            "max_tokens": max_tokens,
            "filter_order": self.filter_order,
            "filter_emb": self.filter_emb,
            "sine_frequency": self.sine_frequency,
            "train_positions": self.train_positions,
            "residual_long_conv": self.residual_long_conv,
            "start": self.start,
        }
        if self.polynomial_order is None:
            return M2MixerConfig(**common, taps=self.taps, ablate=self.ablate)
        return MonarchPolynomialConfig(**common, order=self.polynomial_order, groups=self.polynomial_groups)

    def layer(self, shape: Shape, mixer: BlockConfig) -> LayerConfig:
        """One layer of this body around a sequence mixer."""
        return LayerConfig(
            mixer=mixer,
            channel=gated_channel(
                self.channel,
                shape,
                blocks=self.blocks,
                start="fan_in" if self.start == "balanced" else "released",
            ),
            norm=RMSNormConfig(width=shape.width),
        )

    def with_layers(
        self, layers: tuple[LayerConfig, ...], shape: Shape, *, vocabulary: int, max_tokens: int
    ) -> DecoderConfig:
        """The body with these layers."""
        return DecoderConfig(
            width=shape.width,
            max_tokens=max_tokens,
            embedding=TiedEmbeddingConfig(
                vocabulary=vocabulary, width=shape.width, scale=True, final_softcap=None
            ),
            layers=layers,
            norm=RMSNormConfig(width=shape.width),
        )

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> DecoderConfig:
        layer = self.layer(shape, self.mixer(shape.width, max_tokens))
        return self.with_layers((layer,) * shape.depth, shape, vocabulary=vocabulary, max_tokens=max_tokens)
