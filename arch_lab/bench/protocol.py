"""How two implementations are timed against each other: interleaved, after a warm-up, median of the pairs.

The machine's speed drifts; two calls made one after the other drift together, so the ratio of each pair is
the measurement and the times are there to read. Nothing is timed whose outputs were not compared first, where
both compute the same function.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from arch_lab.judge.crossover import middle
from blocks.errors import UserError


class GateError(UserError):
    """The two contenders do not compute the same thing: no speed is reported."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Medians in milliseconds.

    ``ratio`` = peer_ms / ours_ms, the median over interleaved pairs, with its quartiles.
    """

    name: str
    shape: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    peak_bytes: dict[int, int] | None = (
        None  # number of tokens -> most memory ours held beyond its inputs, where memory is the point
    )


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Rows that cannot run here, and why."""

    name: str
    reason: str


Call = Callable[[], Any]


def measure(
    name: str,
    shape: str,
    subject: Call,
    peer: str,
    baseline: Call,
    *,
    same: bool = False,
    repeats: int = 15,
    tolerance: float = 1e-3,
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """Time ``subject`` against ``baseline``.

    With ``same`` both must return equal tensors, or as many of them, within ``tolerance`` of the scale.

    ``clock``: ``time.process_time`` for work on one thread, which other processes then disturb less.

    Raises: GateError when they do not.
    """
    if same:
        gate(name, subject(), baseline(), tolerance)
    for call in (subject, baseline):
        call()
        call()
    pairs = [(seconds_of(subject, clock), seconds_of(baseline, clock)) for _ in range(repeats)]
    ratio, low, high = middle([b / a for a, b in pairs])
    return Row(
        name=name,
        shape=shape,
        ours_ms=1e3 * statistics.median(a for a, _ in pairs),
        peer=peer,
        peer_ms=1e3 * statistics.median(b for _, b in pairs),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
    )


Outcome = Tensor | Sequence[Tensor]


def gate(name: str, a: Outcome, b: Outcome, tolerance: float = 1e-3) -> None:
    """Raises: GateError unless both are equal within ``tolerance`` of the scale, tensor by tensor."""
    pairs = [(a, b)] if isinstance(a, Tensor) and isinstance(b, Tensor) else list(zip(a, b, strict=True))
    for ours, theirs in pairs:
        error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        if not error <= tolerance:
            raise GateError(
                f"bench {name!r}: the contenders differ by {error:.1e} of the scale "
                f"(allowed {tolerance:.0e}); no speed is reported"
            )


def seconds_of(call: Call, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call, queued work of a GPU included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def step_of(module: torch.nn.Module, x: Tensor) -> Call:
    """Forward and backward of a module, gradients of input and parameters included, then dropped."""
    x = x.detach().requires_grad_()

    def call() -> None:
        module(x).sum().backward()
        module.zero_grad(set_to_none=True)
        x.grad = None

    return call


def with_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Call:
    """Output and every gradient of ``function`` at ``inputs``.

    The gradient of the output holds the same random numbers for every function, in the order of its memory.
    """
    leaves = [t.detach().requires_grad_() for t in inputs]
    with torch.no_grad():
        gradient = torch.empty_like(function(*leaves))
    gradient.copy_(torch.randn(gradient.shape, generator=torch.Generator().manual_seed(1)))

    def call() -> tuple[Tensor, ...]:
        y = function(*leaves)
        return (y.detach(), *torch.autograd.grad(y, leaves, gradient))

    return call


def one_thread_clock() -> Callable[[], float]:
    """Processor time on one thread, which other processes disturb less; else the clock on the wall."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def peak_bytes(call: Call) -> int:
    """Peak bytes of processor memory that tensors made inside ``call`` held."""
    call()
    return recorded_peak(call)


def recorded_peak(call: Call) -> int:
    """As ``peak_bytes`` from a single call, so what it makes once and keeps counts too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    allocated = peak = 0
    for event in sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return peak


def cuda_peak(call: Call) -> int:
    """As ``recorded_peak``, of a GPU's memory."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - allocated
