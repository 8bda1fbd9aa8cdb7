"""T5Gemma's initialisation: an encoder–decoder that starts from trained decoders.

Source: arXiv 2504.06225, section 2; arXiv 2512.14856. Encoder: all of a decoder-only checkpoint, looking both
ways. Decoder: all of one again. Cross-attention, which no decoder-only model has: the weights of the same
layer's self-attention, with its norms, where encoder and decoder are of one width, so that they fit; else it
stays as drawn, and the paper trains it alone for 1000 steps before the rest. Merged attention needs nothing
new.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import nn

from arch_lab.checkpoints.adaptation.bidirectional import bidirectional_state
from arch_lab.models.cross_layer import CrossLayer
from arch_lab.models.decoder import Decoder
from arch_lab.models.direction import bidirectional_layer
from arch_lab.models.encoder_decoder import EncoderDecoder
from arch_lab.models.t5gemma import merged
from blocks.errors import ConfigError

CROSS = {"cross_norm": "mixer_norm", "cross": "mixer", "cross_out_norm": "mixer_out_norm"}


@dataclass(frozen=True, kw_only=True)
class Initialised:
    """Names of trained parameters, and of those with initial values.

    Train the untrained ones first, alone.
    """

    copied: tuple[str, ...]
    untrained: tuple[str, ...]


def initialise(model: EncoderDecoder, *, encoder_from: Decoder, decoder_from: Decoder) -> Initialised:
    """Fill ``model`` in place; both sources may be one and the same.

    A shared table is taken from ``decoder_from``.
    Raises: ConfigError when a source has other layers than the stack it is to fill, naming the first that
    differs; then nothing is filled.
    """
    _check_encoder(model, encoder_from)
    _check_decoder(model, decoder_from)
    model.encoder.layers.load_state_dict(bidirectional_state(encoder_from.layers))
    model.encoder.norm.load_state_dict(encoder_from.norm.state_dict())
    if model.source_embedding is not None:
        model.source_embedding.load_state_dict(encoder_from.embedding.state_dict())
    model.embedding.load_state_dict(decoder_from.embedding.state_dict())
    model.decoder.norm.load_state_dict(decoder_from.norm.state_dict())
    untrained_blocks: list[str] = []
    for i, (layer, source) in enumerate(zip(model.decoder.layers, decoder_from.layers, strict=True)):
        for name, child in source.named_children():
            getattr(layer, name).load_state_dict(child.state_dict())
        if isinstance(layer, CrossLayer):
            untrained_blocks += (
                [] if _cross_from_self(layer) else [f"decoder.layers.{i}.{block}" for block in CROSS]
            )
    names = [name for name, _ in model.named_parameters()]
    untrained = tuple(
        name for name in names if any(name.startswith(f"{block}.") for block in untrained_blocks)
    )
    return Initialised(copied=tuple(name for name in names if name not in untrained), untrained=untrained)


def _cross_from_self(layer: CrossLayer) -> bool:
    """Copy self-attention into cross-attention if the weights fit.

    Returns False, and changes nothing, where they do not.
    """
    cross_weights, self_weights = layer.cross.state_dict(), layer.mixer.state_dict()
    if {n: v.shape for n, v in cross_weights.items()} != {n: v.shape for n, v in self_weights.items()}:
        return False
    for block, source in CROSS.items():
        target: nn.Module = getattr(layer, block)
        target.load_state_dict(getattr(layer, source).state_dict())
    return True


def _check_encoder(model: EncoderDecoder, source: Decoder) -> None:
    config = model.config
    _same("encoder: number of layers", len(config.encoder), len(source.config.layers))
    for i, (layer_config, source_layer) in enumerate(zip(config.encoder, source.config.layers, strict=True)):
        radius = getattr(layer_config.mixer, "radius", None)
        if radius is None and getattr(source_layer.mixer, "window", None) is not None:
            raise ConfigError(
                f"initialise: encoder layer {i} is global, the same layer of the checkpoint is local"
            )
        _same(f"encoder layer {i}", layer_config, bidirectional_layer(source_layer, radius=radius))
    table = config.source_embedding or config.embedding
    _same("encoder: table", _table(table), _table(source.config.embedding))


def _check_decoder(model: EncoderDecoder, source: Decoder) -> None:
    config = model.config
    _same("decoder: number of layers", len(config.decoder), len(source.config.layers))
    for i, (layer, layer_config, source_layer) in enumerate(
        zip(model.decoder.layers, config.decoder, source.config.layers, strict=True)
    ):
        expected = source_layer.mixer if isinstance(layer, CrossLayer) else merged(source_layer).mixer
        _same(f"decoder layer {i}: mixer", layer_config.mixer, expected)
        _same(f"decoder layer {i}: channel mixer", layer_config.channel, source_layer.channel)
        _same(f"decoder layer {i}: norm", layer_config.norm, source_layer.norm)
        _same(f"decoder layer {i}: norms after each mixer", True, source_layer.sandwich)
    _same("decoder: table", _table(config.embedding), _table(source.config.embedding))


def _table(config: Any) -> tuple[int, int]:
    return config.vocabulary, config.width


def _same(label: str, model_value: object, source_value: object) -> None:
    if model_value == source_value:
        return
    # name the option, not the whole block
    if is_dataclass(model_value) and type(model_value) is type(source_value):
        for f in fields(model_value):
            _same(f"{label}.{f.name}", getattr(model_value, f.name), getattr(source_value, f.name))
    raise ConfigError(f"initialise: {label}: the model has {model_value}, the checkpoint {source_value}")
