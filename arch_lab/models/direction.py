"""From causal to bidirectional: the configuration of the same block looking both ways.

For attention the switch is a change of the mask, so the weights stay what they are; a window (keys up to and
including the token) becomes a radius, which has to be named, because five conventions exist. For the M2 mixer
it is another kernel: see ``arch_lab.checkpoints.adaptation``.
"""

from __future__ import annotations

from dataclasses import replace

from arch_lab.models.decoder import DecoderConfig, ResidualConfig
from arch_lab.models.encoder import BidirectionalStackConfig
from arch_lab.models.layer import LayerConfig
from blocks.attention.gemma import AttentionConfig
from blocks.attention.masks import Radius
from blocks.config import Options
from blocks.contract import BlockConfig
from blocks.convolution.mixer import M2MixerConfig
from blocks.errors import ConfigError


def bidirectional_mixer(mixer: BlockConfig, *, radius: Radius | None) -> BlockConfig:
    """``mixer`` without its causal mask; ``radius`` replaces the window of a local layer.

    Raises: ConfigError when the block has no bidirectional form, or a local layer gets no radius.
    """
    if isinstance(mixer, M2MixerConfig):
        return replace(mixer, causal=False)
    if not isinstance(mixer, AttentionConfig):
        raise ConfigError(
            f"{type(mixer).__name__} has no bidirectional form; known are Gemma's attention and the M2 mixer"
        )
    if mixer.window is None:
        return replace(mixer, causal=False)
    if radius is None:
        raise ConfigError(
            f"a local layer (window {mixer.window}) needs a radius in the encoder: "
            "the number of keys on each side"
        )
    return replace(mixer, causal=False, window=None, radius=radius)


def causal_mixer(mixer: BlockConfig, *, window: int | None) -> BlockConfig:
    """The way back: ``window`` replaces the radius of a local layer. Raises: ConfigError as above."""
    if isinstance(mixer, M2MixerConfig):
        return replace(mixer, causal=True)
    if not isinstance(mixer, AttentionConfig):
        raise ConfigError(
            f"{type(mixer).__name__} has no causal form here; known are Gemma's attention and the M2 mixer"
        )
    if mixer.radius is None:
        return replace(mixer, causal=True)
    if window is None:
        raise ConfigError(
            f"a local layer (radius {mixer.radius}) needs a window in the decoder: "
            "the number of keys, itself included"
        )
    return replace(mixer, causal=True, radius=None, window=window)


def bidirectional_layer(layer: LayerConfig, *, radius: Radius | None) -> LayerConfig:
    """One residual layer of an encoder. Raises: ConfigError as ``bidirectional_mixer``."""
    return replace(layer, mixer=bidirectional_mixer(layer.mixer, radius=radius))


def bidirectional_stack(config: DecoderConfig, layers: tuple[LayerConfig, ...]) -> BidirectionalStackConfig:
    """The ends of a decoder around bidirectional layers."""
    return BidirectionalStackConfig(**_ends(config), layers=layers)


def causal_stack(config: BidirectionalStackConfig, layers: tuple[LayerConfig, ...]) -> DecoderConfig:
    """The way back."""
    return DecoderConfig(**_ends(config), layers=layers)


def _ends(config: ResidualConfig) -> Options:
    return {name: getattr(config, name) for name in ("width", "max_tokens", "embedding", "norm")}
