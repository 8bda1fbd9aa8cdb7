"""Exact counts of a described model, fast enough to be asked thousands of times: each kind of layer is built once.

Legend: T tokens, B batch. Layers of one model repeat, and models of one search share layers; what was built on the meta
device (parameters and forward cost at T) is remembered under its configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from arch_lab.accounting.ledger import TRAINING
from arch_lab.models.decoder import Decoder, DecoderConfig, Layer, LayerConfig, SandwichLayer, on_meta
from arch_lab.models.encoder import Encoder, EncoderConfig, EncoderLayer, EncoderLayerConfig
from arch_lab.models.image import ImageClassifier, ImageClassifierConfig
from blocks.cost import Cost, total

Stack = DecoderConfig | EncoderConfig | ImageClassifierConfig  # one stack of layers: what a budget can be solved for
AnyLayer = LayerConfig | EncoderLayerConfig


@dataclass(frozen=True)
class Size:
    """``parameters``: embedding, head, body, total; ``cost``: forward, one sequence."""

    parameters: dict[str, int]
    cost: Cost

    def flops_per_token(self, tokens: int, batch: int) -> Fraction:
        """Canonical training FLOPs per token."""
        return TRAINING * self.cost.per_token(tokens, batch)


def measure(config: Stack, tokens: int) -> Size:
    """What ``without_memory(config)`` holds and costs, without building it whole."""
    parameters, cost = measure_ends(config, tokens)
    inside = layer_tokens(config, tokens)
    counted: dict[AnyLayer, int] = {}
    try:
        for layer in config.layers:
            counted[layer] = counted.get(layer, 0) + 1
        layers = [(measure_layer(layer, inside), n) for layer, n in counted.items()]
    except TypeError:  # a third-party config holding a list or a dict: correct, only not remembered
        layers = [(_build_layer(layer, inside), 1) for layer in config.layers]
    body = sum(n * size for (size, _), n in layers)
    counts = {**parameters, "body": parameters["body"] + body, "total": parameters["total"] + body}
    return Size(counts, cost + total(n * c for (_, c), n in layers))


def measure_ends(config: Stack, tokens: int) -> tuple[dict[str, int], Cost]:
    """Parameters and cost of everything but the layers."""
    bare: Stack = replace(config, layers=())  # type: ignore[arg-type]  # one type each would do
    try:
        parameters, cost = _cached_ends(bare, tokens)
    except TypeError:
        parameters, cost = _build_ends(bare, tokens)
    return dict(parameters), cost


def layer_tokens(config: Stack, tokens: int) -> int:
    """What the layers of ``config`` read for ``tokens`` tokens: an image's class token comes on top of its patches."""
    return config.inside(tokens) if isinstance(config, ImageClassifierConfig) else tokens


def measure_layer(layer: AnyLayer, tokens: int) -> tuple[int, Cost]:
    """Parameters and cost of one layer."""
    try:
        return _cached_layer(layer, tokens)
    except TypeError:
        return _build_layer(layer, tokens)


def _build_layer(layer: AnyLayer, tokens: int) -> tuple[int, Cost]:
    with on_meta():
        built: EncoderLayer | Layer
        if isinstance(layer, EncoderLayerConfig):
            built = EncoderLayer(layer)
        else:
            built = (SandwichLayer if layer.sandwich else Layer)(layer)
    return sum(p.numel() for p in built.parameters()), total(child.cost(tokens) for child in built.children())  # type: ignore[operator]


def _build_ends(bare: Stack, tokens: int) -> tuple[tuple[tuple[str, int], ...], Cost]:
    with on_meta():
        built: Encoder | ImageClassifier | Decoder
        if isinstance(bare, ImageClassifierConfig):
            built = ImageClassifier(bare)
        else:
            built = Encoder(bare) if isinstance(bare, EncoderConfig) else Decoder(bare)
    return tuple(built.parameter_counts().items()), built.cost(tokens)


_cached_layer = lru_cache(maxsize=8192)(_build_layer)
_cached_ends = lru_cache(maxsize=1024)(_build_ends)
