"""T5Gemma and T5Gemma 2: encoder–decoders made of the blocks of Gemma 2 and Gemma 3.

Legend: D width, H query heads, K key/value heads, C head width.
Sources: arXiv 2504.06225 and 2512.14856; transformers models/t5gemma and models/t5gemma2. The stacks come
from the recipes ``gemma2`` and ``gemma3``: an encoder is their stack looking both ways, a decoder their stack
reading the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from arch_lab.models.cross_layer import CrossLayerConfig, MergedLayerConfig
from arch_lab.models.direction import bidirectional_layer
from arch_lab.models.encoder_decoder import EncoderDecoderConfig
from arch_lab.models.gemma import Gemma2, Gemma3, ShortConvolution
from arch_lab.models.layer import LayerConfig
from arch_lab.models.model import Kind
from arch_lab.models.recipe import Recipe, Shape
from arch_lab.models.registry import register_architecture
from blocks.attention.cross import GemmaCrossAttentionConfig
from blocks.attention.gemma import NORM_EPS, AttentionConfig, Gemma2AttentionConfig
from blocks.attention.masks import sides_of_width
from blocks.attention.merged import GemmaMergedAttentionConfig
from blocks.config import Config
from blocks.embedding import TiedEmbeddingConfig
from blocks.errors import ConfigError
from blocks.norm import RMSNormConfig


@dataclass(frozen=True, kw_only=True)
class EncoderSize(Config):
    """Size of an encoder; heads left out follow the width, as in the recipe ``gemma2``."""

    width: int
    depth: int
    ffn_width: int
    heads: int | None = None
    kv_heads: int | None = None
    head_width: int | None = None

    @property
    def shape(self) -> Shape:
        return Shape(width=self.width, depth=self.depth, ffn_width=self.ffn_width)


@register_architecture("t5gemma", source="arXiv:2504.06225")
@dataclass(frozen=True, kw_only=True)
class T5Gemma(Recipe):
    """Gemma 2 blocks, with cross-attention in the decoder. Two tables, the head tied to the decoder's.

    The shape is the decoder's; ``encoder`` gives the encoder another (the published 9B-2B). Published window
    and radius: 4096.
    """

    kind: ClassVar[Kind] = "encoder_decoder"

    encoder: EncoderSize | None = None  # None: as the decoder
    head_width: int | None = None  # these four as in ``gemma2``
    heads: int | None = None
    kv_heads: int | None = None
    kv_groups: int = 2
    query_scale: float | None = None  # of both stacks
    window: int = 512  # keys a local decoder layer sees, the token itself included
    encoder_radius: int = 512  # keys a local encoder layer sees on each side: 2·radius + 1 in all
    pattern: str = "LG"  # of both stacks
    attention_softcap: float | None = 50.0
    final_softcap: float | None = 30.0
    rope_base: float = 10_000.0
    norm_eps: float = NORM_EPS  # of every norm of both stacks
    short_convolution: ShortConvolution = None  # of both stacks' self-attention, causal in both

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> EncoderDecoderConfig:
        decoder_size = EncoderSize(
            heads=self.heads, kv_heads=self.kv_heads, head_width=self.head_width, **vars(shape)
        )
        encoder_size = self.encoder or decoder_size
        encoder, decoder = (
            self._stack(encoder_size, vocabulary, max_tokens),
            self._stack(decoder_size, vocabulary, max_tokens),
        )
        return EncoderDecoderConfig(
            width=shape.width,
            source_width=encoder_size.width,
            max_tokens=max_tokens,
            source_embedding=TiedEmbeddingConfig(vocabulary=vocabulary, width=encoder_size.width, scale=True),
            encoder=tuple(bidirectional_layer(layer, radius=self.encoder_radius) for layer in encoder),
            encoder_norm=RMSNormConfig(width=encoder_size.width, eps=self.norm_eps),
            embedding=TiedEmbeddingConfig(
                vocabulary=vocabulary, width=shape.width, scale=True, final_softcap=self.final_softcap
            ),
            decoder=tuple(reading(layer, memory_width=encoder_size.width) for layer in decoder),
            decoder_norm=RMSNormConfig(width=shape.width, eps=self.norm_eps),
        )

    def _stack(self, size: EncoderSize, vocabulary: int, max_tokens: int) -> tuple[LayerConfig, ...]:
        recipe = Gemma2(
            head_width=size.head_width,
            heads=size.heads,
            kv_heads=size.kv_heads,
            kv_groups=self.kv_groups,
            query_scale=self.query_scale,
            window=self.window,
            pattern=self.pattern,
            attention_softcap=self.attention_softcap,
            rope_base=self.rope_base,
            norm_eps=self.norm_eps,
            short_convolution=self.short_convolution,
        )
        return recipe.config(size.shape, vocabulary=vocabulary, max_tokens=max_tokens).layers


@register_architecture("t5gemma2", source="arXiv:2512.14856")
@dataclass(frozen=True, kw_only=True)
class T5Gemma2(Recipe):
    """Gemma 3 blocks; the decoder's attention reads itself and the encoder in one softmax. One table for all.

    No parameters beyond two Gemma 3 stacks and the table. Text only: the published models also see images,
    through a frozen vision tower, and replace one token's row by a vector of its own (end of image).
    ``encoder``, ``short_convolution``: only there to be refused.
    """

    kind: ClassVar[Kind] = "encoder_decoder"

    encoder: EncoderSize | None = None
    head_width: int | None = None  # these four as in ``gemma3``
    heads: int | None = None
    kv_heads: int | None = None
    kv_groups: int = 4
    query_scale: float | None = None
    window: int = 512  # keys a local decoder layer sees of the target, the token itself included
    encoder_span: int = 512  # keys a local encoder layer sees in all: (n+1)//2 - 1 before, itself, n//2 after
    pattern: str = "LLLLLG"  # of both stacks
    local_rope_base: float = 10_000.0
    global_rope_base: float = 1_000_000.0
    rope_factor: float = 1.0  # of global layers
    short_convolution: ShortConvolution = None

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> EncoderDecoderConfig:
        if self.encoder is not None:
            raise ConfigError(
                "architecture 't5gemma2': encoder and decoder have the same weight shapes, "
                "so the encoder cannot have a different size"
            )
        if self.short_convolution is not None:
            raise ConfigError(
                "architecture 't5gemma2': short_convolution is not defined for merged attention, which reads "
                "tokens of two sequences; t5gemma has it"
            )
        if self.encoder_span < 1:
            raise ConfigError(
                "architecture 't5gemma2': encoder_span must be at least 1 (the token itself), "
                f"got {self.encoder_span}"
            )
        recipe = Gemma3(
            head_width=self.head_width,
            heads=self.heads,
            kv_heads=self.kv_heads,
            kv_groups=self.kv_groups,
            query_scale=self.query_scale,
            window=self.window,
            pattern=self.pattern,
            local_rope_base=self.local_rope_base,
            global_rope_base=self.global_rope_base,
            rope_factor=self.rope_factor,
        )
        layers, norm = (
            recipe.config(shape, vocabulary=vocabulary, max_tokens=max_tokens).layers,
            RMSNormConfig(width=shape.width),
        )
        return EncoderDecoderConfig(
            width=shape.width,
            source_width=shape.width,
            max_tokens=max_tokens,
            source_embedding=None,
            encoder=tuple(
                bidirectional_layer(layer, radius=sides_of_width(self.encoder_span)) for layer in layers
            ),
            encoder_norm=norm,
            embedding=TiedEmbeddingConfig(vocabulary=vocabulary, width=shape.width, scale=True),
            decoder=tuple(merged(layer) for layer in layers),
            decoder_norm=norm,
        )


def reading(layer: LayerConfig, *, memory_width: int) -> CrossLayerConfig:
    """A Gemma 2 layer with cross-attention after its self-attention, of the same heads."""
    mixer = layer.mixer
    assert isinstance(mixer, Gemma2AttentionConfig)
    cross = GemmaCrossAttentionConfig(
        width=mixer.width,
        memory_width=memory_width,
        heads=mixer.heads,
        kv_heads=mixer.kv_heads,
        head_width=mixer.head_width,
        query_scale=mixer.query_scale,
        softcap=mixer.softcap,
    )
    return CrossLayerConfig(
        mixer=mixer, cross=cross, channel=layer.channel, norm=layer.norm, sandwich=layer.sandwich
    )


def merged(layer: LayerConfig) -> MergedLayerConfig:
    """A Gemma 3 layer whose attention also reads the encoder.

    Raises: ConfigError for one with a short convolution.
    """
    mixer = layer.mixer
    assert isinstance(mixer, AttentionConfig)
    if mixer.short_convolution is not None:
        raise ConfigError("merged attention has no short convolution, the Gemma 3 layer has one")
    attention = GemmaMergedAttentionConfig(
        width=mixer.width,
        heads=mixer.heads,
        kv_heads=mixer.kv_heads,
        head_width=mixer.head_width,
        query_scale=mixer.query_scale,
        window=mixer.window,
        rope_base=mixer.rope_base,
        rope_factor=getattr(mixer, "rope_factor", 1.0),
    )
    return MergedLayerConfig(mixer=attention, channel=layer.channel, norm=layer.norm)
