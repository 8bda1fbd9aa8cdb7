"""Exact counts of a model from its config, in microseconds: each kind of layer is built once.

Legend: T tokens, B batch. Layers of one model repeat, and models of one search share layers; what was built
on the meta device (parameters and forward cost at T) is remembered under its configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from arch_lab.accounting.ledger import TRAINING
from arch_lab.models.model import Buildable, StackConfig, on_meta, size_of
from blocks.cost import Cost, total


@dataclass(frozen=True)
class Size:
    """``parameters``: embedding, head, body, total; ``cost``: forward, one sequence."""

    parameters: dict[str, int]
    cost: Cost

    def flops_per_token(self, tokens: int, batch: int) -> Fraction:
        """Canonical training FLOPs per token."""
        return TRAINING * self.cost.per_token(tokens, batch)


def measure(config: StackConfig, tokens: int) -> Size:
    """What the model of ``config`` holds and costs, without building it whole."""
    parameters, cost = measure_ends(config, tokens)
    positions = config.inside(tokens)
    counted: dict[Buildable, int] = {}
    try:
        for layer in config.layers:
            counted[layer] = counted.get(layer, 0) + 1
        layers = [(measure_layer(layer, positions), n) for layer, n in counted.items()]
    except TypeError:  # a third-party config holding a list or a dict: correct, only not remembered
        layers = [(_build_layer(layer, positions), 1) for layer in config.layers]
    body = sum(n * size for (size, _), n in layers)
    counts = {**parameters, "body": parameters["body"] + body, "total": parameters["total"] + body}
    return Size(counts, cost + total(n * c for (_, c), n in layers))


def measure_ends(config: StackConfig, tokens: int) -> tuple[dict[str, int], Cost]:
    """Parameters and cost of everything but the layers."""
    bare = replace(config, layers=())
    try:
        parameters, cost = _cached_ends(bare, tokens)
    except TypeError:
        parameters, cost = _build_ends(bare, tokens)
    return dict(parameters), cost


def measure_layer(layer: Buildable, tokens: int) -> tuple[int, Cost]:
    """Parameters and cost of one layer."""
    try:
        return _cached_layer(layer, tokens)
    except TypeError:
        return _build_layer(layer, tokens)


def _build_layer(layer: Buildable, tokens: int) -> tuple[int, Cost]:
    with on_meta():
        built = layer.build()
    return size_of(built), total(child.cost(tokens) for child in built.children())  # type: ignore[operator]


def _build_ends(bare: StackConfig, tokens: int) -> tuple[tuple[tuple[str, int], ...], Cost]:
    built = bare.build("meta")
    return tuple(built.parameter_counts().items()), built.cost(tokens)


_cached_layer = lru_cache(maxsize=8192)(_build_layer)
_cached_ends = lru_cache(maxsize=1024)(_build_ends)
