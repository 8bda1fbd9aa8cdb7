"""The causality law on a built model, before it may write a perplexity.

Legend: T tokens, s position changed, t position that reacted, D width.
Protocol: float64, parameters re-drawn at order 1 (initial values hide leaks: zeroed projections, fast decays). Every
single position s is changed (all s for short T, a spread of them beyond the longest window), then every suffix at
once; nothing before s may move by more than 1e-9 of the scale. Witnesses beside it: the gradient of y[t] with respect
to later embeddings is zero; a shorter sequence gives the same outputs; and position s itself *does* react, so a dead
block cannot pass. Whoever leaks is named with the first leaking pair (t, s).
Why relative and in float64: an FFT padded to 2T-2 leaks 6.6e-6 of the scale at T = 8192, which a loose float32
tolerance would pass; rounding of a correct one stays below 1e-15.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from arch_lab.architecture.decoder import Decoder
from blocks.errors import UserError

LEAK = 1e-9  # of max |hidden|, float64, whole models (depth amplifies rounding; a single block is held to 1e-12)
GRADIENT_LEAK = 1e-9
LIVE = 1e-6  # a position must move by at least this share of the scale when its own token changes
TINY = 1e-300  # keeps an all-zero output from dividing by zero; it then fails as not live
SHORT = 48  # every position is changed up to this length
SPREAD = (1, 2, 3, 7, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)


class LeakError(UserError):
    """A model whose past depends on its future (or on nothing): it gets no metric."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was checked and what was found. ``leak`` names block, t, s and size when the model is not causal."""

    passed: bool
    lengths: tuple[int, ...]
    dtype: str = "float64"
    threshold: float = LEAK
    leak_ratio: float
    gradient_ratio: float
    prefix_ratio: float
    live_ratio: float
    blocks: tuple[str, ...]
    leak: dict[str, Any] | None = None
    reason: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def certify_model(model: Decoder, *, vocabulary: int, seed: int = 0) -> Certificate:
    """Run the protocol on a copy of ``model``; never changes it. ``passed`` is False with a reason on any failure."""
    probe = copy.deepcopy(model).double().eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        redraw(probe)
        blocks = tuple(
            sorted({type(layer.mixer).__name__ for layer in probe.layers} | {type(layer.channel).__name__ for layer in probe.layers})
        )
        worst = {"leak": 0.0, "gradient": 0.0, "prefix": 0.0}
        live, leak, reason = float("inf"), None, ""
        for tokens in _lengths(probe):
            row = torch.randint(vocabulary, (1, tokens))
            base = probe.hidden(row)
            positions = range(tokens) if tokens <= SHORT else sorted({*(p for p in SPREAD if p < tokens), tokens // 2, tokens - 1})
            found = _change_positions(probe, row, base, list(positions), vocabulary)
            worst["leak"] = max(worst["leak"], found.ratio)
            live = min(live, found.live)
            worst["prefix"] = max(worst["prefix"], _prefix_ratio(probe, row, base))
            worst["gradient"] = max(worst["gradient"], _gradient_ratio(probe, row))
            if found.pair is not None:
                leak = {**found.pair, "length": tokens}
                reason = (
                    f"block {leak['block']} is not causal: changing token {leak['s']} moves output {leak['t']} "
                    f"by {leak['size']:.1e} of the scale (first leaking pair t={leak['t']}, s={leak['s']}; length {tokens})"
                )
                break
        reason = reason or _other_failure(worst, live)
    return Certificate(
        passed=not reason,
        lengths=tuple(_lengths(probe)),
        leak_ratio=worst["leak"],
        gradient_ratio=worst["gradient"],
        prefix_ratio=worst["prefix"],
        live_ratio=live,
        blocks=blocks,
        leak=leak,
        reason=reason,
    )


def _other_failure(worst: dict[str, float], live: float) -> str:
    if not worst["gradient"] <= GRADIENT_LEAK:
        return f"the gradient of an output with respect to later tokens is {worst['gradient']:.1e} of the scale: not causal"
    if not worst["prefix"] <= LEAK:
        return f"a shorter sequence gives other outputs ({worst['prefix']:.1e} of the scale): something depends on the sequence's length"
    if not live >= LIVE:
        return f"outputs hardly react to their own token ({live:.1e} of the scale): the check would be blind"
    return ""


def _lengths(model: Decoder) -> list[int]:
    """Short, odd, and one past the longest window (as far as the model goes)."""
    longest = model.config.max_tokens
    windows = [w for w in (getattr(layer.mixer.config, "window", None) for layer in model.layers) if w]
    wanted = {1 + SHORT // 3, SHORT, *(w + 1 for w in windows), *(2 * w + 1 for w in windows)}
    lengths = sorted({min(longest, w) for w in wanted if w <= 4 * 1024})
    return lengths or [min(longest, SHORT)]


@torch.no_grad()
def redraw(model: nn.Module) -> None:
    """Parameters of order 1 in place: initial values hide leaks."""
    for parameter in model.parameters():
        fan_in = parameter.shape[-1] if parameter.ndim >= 2 else 4
        spread = parameter.std(correction=0).item() if parameter.numel() > 1 else 0.0
        parameter.add_(torch.randn_like(parameter) * max(spread, fan_in**-0.5))


@dataclass
class _Found:
    ratio: float
    live: float
    pair: dict[str, Any] | None


@torch.no_grad()
def _change_positions(model: Decoder, row: Tensor, base: Tensor, positions: list[int], vocabulary: int) -> _Found:
    """Row i of the batch differs from ``row`` at positions[i] only; a second batch differs from there to the end."""
    scale = max(base.abs().max().item(), TINY)
    t = torch.arange(row.shape[1])
    s = torch.tensor(positions)[:, None]
    other = (row + torch.randint(1, vocabulary, (len(positions), row.shape[1]))) % vocabulary
    ratio, live, pair = 0.0, float("inf"), None
    for changed in (t == s, t >= s):
        rows = torch.where(changed, other, row)
        moved = (model.hidden(rows) - base).abs().amax(dim=-1) / scale
        moved = torch.nan_to_num(moved, nan=float("inf"))
        before = torch.where(t < s, moved, 0.0)
        ratio = max(ratio, before.max().item())
        if pair is None and before.max() > LEAK:
            first_t = int((before > LEAK).any(dim=0).nonzero()[0])
            i = int((before[:, first_t] > LEAK).nonzero()[0])
            block = _blame(model, row, rows[i : i + 1], positions[i])
            pair = {"t": first_t, "s": positions[i], "size": before[i, first_t].item(), "block": block}
        own = moved[torch.arange(len(positions)), s[:, 0]]
        live = min(live, own.min().item())
    return _Found(ratio=ratio, live=live, pair=pair)


def _blame(model: Decoder, row: Tensor, changed: Tensor, s: int) -> str:
    """The first module, in the order they run, whose output before s moves: the one that let the future in."""
    with _outputs(model) as base:
        model.hidden(row)
    with _outputs(model) as after:
        model.hidden(changed)
    for name, y in base.items():
        if s and (after[name] - y)[:, :s].abs().max() > LEAK * y.abs().max():
            return f"{name} ({type(model.get_submodule(name)).__name__})"
    return "(the model outside its layers)"


@contextmanager
def _outputs(model: Decoder) -> Iterator[dict[str, Tensor]]:
    kept: dict[str, Tensor] = {}
    hooks = []
    for i, layer in enumerate(model.layers):
        for child_name, child in layer.named_children():
            name = f"layers.{i}.{child_name}"
            hooks.append(child.register_forward_hook(lambda _m, _a, y, name=name: kept.setdefault(name, y.detach())))
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _prefix_ratio(model: Decoder, row: Tensor, base: Tensor) -> float:
    scale = max(base.abs().max().item(), TINY)
    lengths = sorted({n for n in (1, 2, 5, row.shape[1] // 2, row.shape[1] - 1) if 0 < n < row.shape[1]})
    return max(((model.hidden(row[:, :n]) - base[:, :n]).abs().max().item() / scale for n in lengths), default=0.0)


def _gradient_ratio(model: Decoder, row: Tensor) -> float:
    """Largest |d y[t] / d x[>t]| relative to the largest gradient, for a few t, through the embeddings."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, x: Tensor) -> Tensor:
        kept.append(x.detach().requires_grad_())
        return kept[-1]

    hook = model.embedding.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            y = model.hidden(row)
    finally:
        hook.remove()
    worst = 0.0
    for t in sorted({0, row.shape[1] // 3, row.shape[1] // 2, row.shape[1] - 2} & set(range(row.shape[1]))):
        (g,) = torch.autograd.grad((y[:, t] * torch.randn_like(y[:, t])).sum(), kept[0], retain_graph=True)
        if not torch.isfinite(g).all():
            return float("inf")
        if t + 1 < row.shape[1]:
            worst = max(worst, g[:, t + 1 :].abs().max().item() / max(g.abs().max().item(), TINY))
    return worst
