"""FLOPs of one timed call: canonical ones (for MFU) and those that the algorithms execute (for HFU).

Legend: B sequences, T tokens, H query heads, C head width, w window; a product is one matmul over (query,
key) pairs: 2·C FLOPs each.
Canonical: the cost in arch_lab.accounting, a training step 3 x forward; a prefill computes one row of logits.
Executed: attention multiplies the pairs its backend visits (a tile's corners too, scores again in a tiled
backward pass), a convolution what ``choose`` takes, a training step of it what a counted graph holds.
torch's fused attention does not say which pairs it skips. With it, and for blocks not named in this file, the
executed number is None.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from arch_lab.accounting import count_training
from arch_lab.accounting.ledger import TRAINING
from arch_lab.budget.counting import measure, measure_layer
from arch_lab.models.decoder import DecoderConfig
from arch_lab.models.layer import LayerConfig
from arch_lab.models.model import on_meta
from blocks.attention.backends import backend_of
from blocks.attention.gemma import AttentionConfig
from blocks.attention.masks import Span, attended_pairs
from blocks.attention.tiled import tiles
from blocks.channel.glu import GeGLUConfig
from blocks.contract import BlockConfig
from blocks.convolution.algorithms import algorithm_flops, choose
from blocks.convolution.long import LongConvolution
from blocks.convolution.mixer import M2Mixer, M2MixerConfig
from blocks.cost import Cost
from blocks.monarch.glu import BlockDiagonalGLUConfig
from experiments.throughput.config import Group

# (attention backend, has a softcap) -> products executed for a forward, and for a step; None: not known
PRODUCTS: dict[tuple[str, bool], tuple[int, int | None]] = {
    ("tiled", True): (2, 7),  # backward: the scores again, and four gradients
    ("tiled", False): (2, 7),
    ("masked", True): (2, 6),  # with a cap it is written out: autograd's two products for each
    ("masked", False): (2, None),  # torch's operator, which does not say what its backward pass computes
}


@dataclass(frozen=True, kw_only=True)
class _Call:
    """``step``: forward and backward."""

    step: bool
    tokens: int
    batch: int
    device: str


def layer_counts(config: DecoderConfig) -> list[tuple[LayerConfig, int]]:
    """The different layers of a model and how often each occurs."""
    kinds: list[LayerConfig] = []
    for layer in config.layers:
        if layer not in kinds:
            kinds.append(layer)
    return [(kind, sum(layer == kind for layer in config.layers)) for kind in kinds]


def canonical_flops(config: DecoderConfig, group: Group) -> float | None:
    """Canonical FLOPs of one call, below level ``model`` of the mean layer; None for decoding."""
    if group.mode == "decode":
        return None
    tokens, batch = group.tokens, group.batch
    times = TRAINING if group.mode == "step" else 1
    if group.level != "model":
        counts = layer_counts(config)
        parts = [(n / len(config.layers), _part_cost(layer, group.level, tokens)) for layer, n in counts]
        return float(sum(times * share * cost.forward(batch) for share, cost in parts))
    flops = measure(config, tokens).cost.forward(batch)
    if group.mode == "prefill":
        head = config.embedding
        flops -= batch * (_cost(head, tokens) + (-1) * _cost(head, 1)).forward()
    return float(times * flops)


def _part_cost(layer: LayerConfig, level: str, tokens: int) -> Cost:
    return measure_layer(layer, tokens)[1] if level == "layer" else _cost(layer.mixer, tokens)


def _cost(config: BlockConfig, tokens: int) -> Cost:
    with on_meta():
        return config.build().cost(tokens)


def executed_flops(config: DecoderConfig, group: Group, device: str = "cpu") -> float | None:
    """FLOPs that one call executes, below level ``model`` of the mean layer; None where not known."""
    canonical = canonical_flops(config, group)
    if canonical is None or group.mode not in ("forward", "step"):
        return None
    divisor = 1 if group.level == "model" else len(config.layers)
    call = _Call(step=group.mode == "step", tokens=group.tokens, batch=group.batch, device=device)
    extra = 0.0
    for layer, count in layer_counts(config):
        if group.level != "mixer" and not isinstance(layer.channel, (GeGLUConfig, BlockDiagonalGLUConfig)):
            return None
        more = _beyond_canonical(layer.mixer, call)
        if more is None:
            return None
        extra += more * count / divisor
    return canonical + extra


def _beyond_canonical(mixer: BlockConfig, call: _Call) -> float | None:
    """Executed minus canonical FLOPs of one sequence mixer."""
    if type(mixer) is M2MixerConfig:
        whole = mixer.taps is None and not mixer.ablate
        return _convolution(mixer, call) if whole else None
    if not isinstance(mixer, AttentionConfig) or (mixer.short_convolution is not None and call.step):
        return None  # the backward pass of a short convolution executes less than is charged
    return _attention(mixer, call)


def _attention(mixer: AttentionConfig, call: _Call) -> float | None:
    tokens, softcap = call.tokens, getattr(mixer, "softcap", None)
    backend = backend_of(
        tokens=tokens,
        window=mixer.window,
        softcap=softcap,
        head_width=mixer.channels,
        device=call.device,
    ).implementation
    products = PRODUCTS.get((backend, softcap is not None), (None, None))[call.step]
    if products is None:
        return None
    pairs = tokens**2 if backend == "masked" else _tiled_pairs(tokens, mixer.heads, mixer.window)
    allowed = attended_pairs(tokens, window=mixer.window)
    excess = products * pairs - 2 * (TRAINING if call.step else 1) * allowed
    return float(2 * mixer.channels * mixer.heads * call.batch * excess)


def _tiled_pairs(tokens: int, heads: int, window: int | None) -> int:
    span = Span.of(causal=True, window=window).within(tokens, tokens)
    return sum(
        (tile.last - tile.first) * (tile.stop - tile.start) for tile in tiles(tokens, tokens, heads, span)
    )


def _convolution(config: M2MixerConfig, call: _Call) -> float | None:
    tokens, batch = call.tokens, call.batch
    with on_meta():
        mixer = M2Mixer(config)
        x = torch.empty(batch, tokens, config.width, requires_grad=True)
    convolutions = [part for part in (mixer.long, mixer.residual) if isinstance(part, LongConvolution)]
    # ``executed_flops`` of a built block would ask the device its parameters lie on, which is meta
    choices = [_choose(config, call) for _ in convolutions]
    if not call.step:
        costs = [(c.cost(tokens), c.filter.cost(tokens)) for c in convolutions]
        canonical = sum(whole.forward(batch) - filters.forward(batch) for whole, filters in costs)
        return float(sum(flops for _, flops in choices) - canonical)
    if any(algorithm != "fft" for algorithm, _ in choices):
        return None  # the graph on the meta device is that of the transform
    return float(count_training(lambda: mixer(x)).total - TRAINING * mixer.cost(tokens).forward(batch))


def _choose(config: M2MixerConfig, call: _Call) -> tuple[str, int]:
    """Algorithm of a convolution, and the FLOPs that it executes."""
    tokens, batch, causal = call.tokens, call.batch, config.causal
    choice = choose(batch=batch, tokens=tokens, taps=tokens, causal=causal, device=call.device)
    flops = algorithm_flops(
        choice.implementation,
        batch=batch,
        channels=config.width,
        tokens=tokens,
        taps=tokens,
        causal=causal,
    )
    return choice.implementation, flops
