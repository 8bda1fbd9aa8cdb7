"""FLOPs of one timed call: those the architecture asks for (MFU) and those its algorithms execute (HFU), kept apart.

Legend: B sequences, T tokens, H query heads, C head width, w window; a product is one matmul over (query, key) pairs: 2·C FLOPs each.
Asked for: the canonical cost (arch_lab.accounting), a training step 3 x forward; a prefill computes one row of logits.
Executed: attention multiplies the pairs its backend visits (a tile's corners too, scores again in a tiled backward pass), a
convolution what ``choose`` takes, a training step of it what a counted graph holds. torch's fused attention does not say
which pairs it skips, so with it, and for blocks not named here, the executed number is None: left empty, not guessed.
"""

from __future__ import annotations

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
from blocks.convolution.mixer import M2Mixer, M2MixerConfig
from blocks.cost import Cost
from blocks.monarch.glu import BlockDiagonalGLUConfig

# attention backend -> products executed for a forward, and for a forward and a backward; None: not known
PRODUCTS: dict[tuple[str, bool], tuple[int, int | None]] = {
    ("tiled", True): (2, 7),  # backward: the scores again, and four gradients
    ("tiled", False): (2, 7),
    ("masked", True): (2, 6),  # with a cap it is written out: autograd's two products for each
    ("masked", False): (2, None),  # torch's operator, whose backward pass is its own affair
}


def kinds(config: DecoderConfig) -> list[tuple[LayerConfig, int]]:
    """The different layers of a model and how often each stands in it."""
    found: list[tuple[LayerConfig, int]] = []
    for layer in config.layers:
        at = next((i for i, (known, _) in enumerate(found) if known == layer), None)
        if at is None:
            found.append((layer, 1))
        else:
            found[at] = (layer, found[at][1] + 1)
    return found


def asked(config: DecoderConfig, *, level: str, mode: str, tokens: int, batch: int) -> float | None:
    """Canonical FLOPs of one call, of a mean layer where the level is not the model; None for decoding, which has no such convention."""
    if mode == "decode":
        return None
    times = TRAINING if mode == "step" else 1
    if level != "model":
        parts = [(n / len(config.layers), _part(layer, level, tokens)) for layer, n in kinds(config)]
        return float(sum(times * share * cost.forward(batch) for share, cost in parts))
    flops = measure(config, tokens).cost.forward(batch)
    if mode == "prefill":
        head = config.embedding
        flops -= batch * (_cost(head, tokens) + (-1) * _cost(head, 1)).forward()
    return float(times * flops)


def _part(layer: LayerConfig, level: str, tokens: int) -> Cost:
    return measure_layer(layer, tokens)[1] if level == "layer" else _cost(layer.mixer, tokens)


def _cost(config: BlockConfig, tokens: int) -> Cost:
    with on_meta():
        return config.build().cost(tokens)


def executed(
    config: DecoderConfig, *, level: str, mode: str, tokens: int, batch: int, device: str = "cpu"
) -> float | None:
    """FLOPs that one call executes on ``device``, of a mean layer where the level is not the model; None where that is not known."""
    canonical = asked(config, level=level, mode=mode, tokens=tokens, batch=batch)
    if canonical is None or mode not in ("forward", "step"):
        return None
    per = 1 if level == "model" else len(config.layers)
    extra = 0.0
    for layer, count in kinds(config):
        if level != "mixer" and not isinstance(layer.channel, (GeGLUConfig, BlockDiagonalGLUConfig)):
            return None
        more = _beyond(layer.mixer, step=mode == "step", tokens=tokens, batch=batch, device=device)
        if more is None:
            return None
        extra += more * count / per
    return canonical + extra


def _beyond(mixer: BlockConfig, *, step: bool, tokens: int, batch: int, device: str) -> float | None:
    """Executed minus canonical FLOPs of one sequence mixer."""
    if type(mixer) is M2MixerConfig:
        return _convolution(mixer, step=step, tokens=tokens, batch=batch, device=device)
    if not isinstance(mixer, AttentionConfig):
        return None
    softcap: float | None = getattr(mixer, "softcap", None)
    backend = backend_of(
        tokens=tokens, window=mixer.window, softcap=softcap, head_width=mixer.channels, device=device
    ).implementation
    products = PRODUCTS.get((backend, softcap is not None), (None, None))[step]
    if products is None:
        return None
    pairs = tokens**2 if backend == "masked" else _tiled_pairs(tokens, mixer.heads, mixer.window)
    allowed = attended_pairs(tokens, window=mixer.window)
    return float(
        2
        * mixer.channels
        * mixer.heads
        * batch
        * (products * pairs - 2 * (TRAINING if step else 1) * allowed)
    )


def _tiled_pairs(tokens: int, heads: int, window: int | None) -> int:
    span = Span.of(causal=True, window=window).within(tokens, tokens)
    return sum(
        (tile.last - tile.first) * (tile.stop - tile.start) for tile in tiles(tokens, tokens, heads, span)
    )


def _convolution(config: M2MixerConfig, *, step: bool, tokens: int, batch: int, device: str) -> float | None:
    with on_meta():
        mixer = M2Mixer(config)
        x = torch.empty(batch, tokens, config.width, requires_grad=True)
    convolutions = [mixer.long] if mixer.residual is None else [mixer.long, mixer.residual]
    forward = mixer.cost(tokens).forward(batch)
    # ``executed_flops`` of a built block would ask the device its parameters lie on, which is none here
    chosen = [_choose(config, tokens, batch, device) for _ in convolutions]
    if not step:
        canonical = sum(
            c.cost(tokens).forward(batch) - c.filter.cost(tokens).forward(batch) for c in convolutions
        )
        return float(sum(flops for _, flops in chosen) - canonical)
    if any(algorithm != "fft" for algorithm, _ in chosen):
        return None  # the graph on the meta device is that of the transform
    return float(count_training(lambda: mixer(x)).total - TRAINING * forward)


def _choose(config: M2MixerConfig, tokens: int, batch: int, device: str) -> tuple[str, int]:
    causal, width = config.causal, config.width
    algorithm = choose(batch=batch, tokens=tokens, taps=tokens, causal=causal, device=device).implementation
    return algorithm, algorithm_flops(
        algorithm, batch=batch, channels=width, tokens=tokens, taps=tokens, causal=causal
    )
