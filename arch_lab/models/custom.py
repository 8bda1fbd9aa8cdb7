"""A decoder or an encoder around any registered sequence mixer, so that a block a user brings can stand in a comparison at once.

``mixer`` and ``channel`` are registered names or import paths ``package.module:Class``. Options a block's config
shares with the model (width, ffn_width, max_tokens, causal) are filled in from the shape; the rest comes from
``mixer_options`` and ``channel_options``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, TypeVar

from arch_lab.models.decoder import DecoderConfig, ResidualConfig
from arch_lab.models.encoder import BidirectionalStackConfig
from arch_lab.models.layer import LayerConfig
from arch_lab.models.model import Kind
from arch_lab.models.recipe import Recipe, Shape
from arch_lab.models.registry import register_architecture
from blocks.config import Config
from blocks.contract import BlockConfig
from blocks.embedding import TiedEmbeddingConfig
from blocks.errors import ConfigError
from blocks.norm import RMSNormConfig
from blocks.registry import lookup


@dataclass(frozen=True, kw_only=True)
class Chosen(Config):
    """Which blocks, by name or import path, and their options beside those that follow from the shape."""

    mixer: str
    mixer_options: dict[str, Any] = field(default_factory=dict)
    channel: str = "geglu"
    channel_options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_options(cls, options: dict[str, Any], *, where: str = "") -> Self:
        """As ``Config.from_options``; an option of the mixer that stands beside it is told where it belongs."""
        known = {f.name for f in fields(cls)}
        strange = [key for key in options if key not in known]
        if strange and isinstance(options.get("mixer"), str):
            own = [f.name for f in fields(lookup(options["mixer"]).config)]
            if strange[0] in own:
                raise ConfigError(
                    f"{where or cls.__name__}: {strange[0]!r} is an option of the block {options['mixer']!r}; "
                    f"write mixer_options: {{{strange[0]}: {options[strange[0]]!r}}}"
                )
        return super().from_options(options, where=where)


@register_architecture("custom", source="pre-norm residual decoder, arXiv:2002.04745")
@dataclass(frozen=True, kw_only=True)
class Custom(Chosen, Recipe):
    """Pre-norm residual layers of one mixer and one channel mixer, RMSNorm, tied embedding scaled by sqrt(width)."""

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> DecoderConfig:
        return _stack(self, DecoderConfig, shape, vocabulary=vocabulary, max_tokens=max_tokens)


@register_architecture("custom_encoder", source="pre-norm residual encoder, arXiv:2002.04745")
@dataclass(frozen=True, kw_only=True)
class CustomEncoder(Chosen, Recipe):
    """The same layers reading in both directions: ``causal: false`` reaches every block whose config has the option.

    A mixer that stays causal is refused when the model is built. No position encoding is added: the mixer brings its own.
    """

    kind: ClassVar[Kind] = "encoder"

    def config(self, shape: Shape, *, vocabulary: int, max_tokens: int) -> BidirectionalStackConfig:
        return _stack(self, BidirectionalStackConfig, shape, vocabulary=vocabulary, max_tokens=max_tokens)


S = TypeVar("S", bound=ResidualConfig)


def _stack(of: Custom | CustomEncoder, stack: type[S], shape: Shape, *, vocabulary: int, max_tokens: int) -> S:
    causal = stack.kind == "decoder"
    given = {"width": shape.width, "ffn_width": shape.ffn_width, "max_tokens": max_tokens, "causal": causal}
    norm = RMSNormConfig(width=shape.width)
    layer = LayerConfig(
        mixer=_filled(of.name, of.mixer, "sequence_mixer", of.mixer_options, given),
        channel=_filled(of.name, of.channel, "channel_mixer", of.channel_options, given),
        norm=norm,
    )
    return stack(
        width=shape.width,
        max_tokens=max_tokens,
        embedding=TiedEmbeddingConfig(vocabulary=vocabulary, width=shape.width, scale=True),
        layers=(layer,) * shape.depth,
        norm=norm,
    )


def _filled(architecture: str, name: str, kind: str, options: dict[str, Any], given: dict[str, Any]) -> BlockConfig:
    entry = lookup(name)
    if entry.kind != kind:
        raise ConfigError(f"architecture {architecture!r}: block {name!r} is a {entry.kind}, not a {kind}")
    known = {f.name for f in fields(entry.config)}
    filled = {key: value for key, value in given.items() if key in known}
    return entry.config.from_options({**filled, **options}, where=f"block {name!r}")
