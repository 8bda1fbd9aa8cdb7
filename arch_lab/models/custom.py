"""A decoder or an encoder around any registered sequence mixer, a user's own included.

``mixer`` and ``channel`` are registered names or import paths ``package.module:Class``. Options a block's
config shares with the model (width, ffn_width, max_tokens, causal) are filled in from the shape; the rest
comes from ``mixer_options`` and ``channel_options``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Self, TypeVar

from arch_lab.models.decoder import DecoderConfig, ResidualConfig
from arch_lab.models.encoder import BidirectionalStackConfig
from arch_lab.models.layer import LayerConfig
from arch_lab.models.model import Kind
from arch_lab.models.recipe import Recipe, Shape
from arch_lab.models.registry import register_architecture
from blocks.config import Config, Options
from blocks.contract import BlockConfig
from blocks.embedding import TiedEmbeddingConfig
from blocks.errors import ConfigError
from blocks.norm import RMSNormConfig
from blocks.registry import lookup


@dataclass(frozen=True, kw_only=True)
class BlockChoice(Config):
    """Blocks by name or import path, and their options beyond the shape."""

    mixer: str
    mixer_options: Options = field(default_factory=dict)
    channel: str = "geglu"
    channel_options: Options = field(default_factory=dict)

    @classmethod
    def from_options(cls, options: Options, *, where: str = "") -> Self:
        """As ``Config.from_options``.

        Raises: ConfigError for an option of the mixer outside mixer_options.
        """
        names = {f.name for f in fields(cls)}
        unknown = [key for key in options if key not in names]
        if unknown and isinstance(options.get("mixer"), str):
            mixer_names = [f.name for f in fields(lookup(options["mixer"]).config)]
            if unknown[0] in mixer_names:
                raise ConfigError(
                    f"{where or cls.__name__}: {unknown[0]!r} is an option of the block "
                    f"{options['mixer']!r}; write mixer_options: {{{unknown[0]}: {options[unknown[0]]!r}}}"
                )
        return super().from_options(options, where=where)


@register_architecture("custom", source="pre-norm residual decoder, arXiv:2002.04745")
@dataclass(frozen=True, kw_only=True)
class Custom(BlockChoice, Recipe):
    """Pre-norm residual layers of one mixer and one channel mixer, with a tied embedding.

    Norms are RMSNorm; the embedding is scaled by sqrt(width).
    """

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> DecoderConfig:
        return _stack(self, DecoderConfig, shape, vocabulary=vocabulary, max_tokens=max_tokens)


@register_architecture("custom_encoder", source="pre-norm residual encoder, arXiv:2002.04745")
@dataclass(frozen=True, kw_only=True)
class CustomEncoder(BlockChoice, Recipe):
    """The same layers in both directions: ``causal: false`` reaches every block with that option.

    A mixer that stays causal is refused when the model is built. No position encoding is added: the mixer
    brings its own.
    """

    kind: ClassVar[Kind] = "encoder"

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> BidirectionalStackConfig:
        return _stack(self, BidirectionalStackConfig, shape, vocabulary=vocabulary, max_tokens=max_tokens)


S = TypeVar("S", bound=ResidualConfig)


def _stack(
    recipe: Custom | CustomEncoder, stack: type[S], shape: Shape, *, vocabulary: int, max_tokens: int
) -> S:
    causal = stack.kind == "decoder"
    shared = {"width": shape.width, "ffn_width": shape.ffn_width, "max_tokens": max_tokens, "causal": causal}
    norm = RMSNormConfig(width=shape.width)
    layer = LayerConfig(
        mixer=_filled(recipe.name, recipe.mixer, "sequence_mixer", recipe.mixer_options, shared),
        channel=_filled(recipe.name, recipe.channel, "channel_mixer", recipe.channel_options, shared),
        norm=norm,
    )
    return stack(
        width=shape.width,
        max_tokens=max_tokens,
        embedding=TiedEmbeddingConfig(vocabulary=vocabulary, width=shape.width, scale=True),
        layers=(layer,) * shape.depth,
        norm=norm,
    )


def _filled(architecture: str, name: str, kind: str, options: Options, shared: Options) -> BlockConfig:
    entry = lookup(name)
    if entry.kind != kind:
        raise ConfigError(f"architecture {architecture!r}: block {name!r} is a {entry.kind}, not a {kind}")
    names = {f.name for f in fields(entry.config)}
    filled = {key: value for key, value in shared.items() if key in names}
    return entry.config.from_options({**filled, **options}, where=f"block {name!r}")
