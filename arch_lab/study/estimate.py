"""Rough time and memory of a trial, from a matrix product timed on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from arch_lab.accounting import Ledger
from arch_lab.memory import keeps_memory
from arch_lab.models.model import Model
from arch_lab.study.plan import Estimate
from blocks.errors import ConfigError

UTILISATION = 0.35  # share of the GEMM rate that a training step of these sizes reaches on a CPU
FLOAT = 4  # bytes
# Measured as peak resident size of gemma3 and m2_gpt at T 256 to 4,096, widths 128 and 256: what Lightning and torch load when they
# train, and what a step holds at its peak, as a multiple of what it saves for its backward pass: 0.8 to 1.7 where freed buffers are kept,
# gaps between them included; else 1.1 to 2.1, for huge pages are aligned
FIXED_BYTES, HELD_KEPT, HELD = 22e6, 1.12, 1.5


@contextmanager
def threads_of_trials(threads: int | None, *, one: bool = True) -> Iterator[None]:
    """Inside, torch uses the threads of a trial: ``threads`` where given; else 1 on a CPU, what torch chooses on a GPU.

    The default is the same for every executor: the number of threads is part of a trial's identity. ``one`` False: what torch
    chooses on a CPU too. Raises: ConfigError.
    """
    previous = torch.get_num_threads()
    set_threads(1 if threads is None and one and not torch.cuda.is_available() else threads)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def set_threads(threads: int | None) -> None:
    """Set torch's threads; None leaves them. Raises: ConfigError."""
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"--threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def gemm_rate() -> float:
    """Measured float32 GEMM rate, FLOP/s, once per process: what the time estimate is scaled by."""
    return measure_gemm_rate()


def measure_gemm_rate(
    dtype: torch.dtype = torch.float32, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The best of a few square products, with the threads of now."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n = 8192 if device == "cuda" else 768
    a, b = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        start = clock()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return 2 * n**3 / best


def estimate(costs: Ledger, model: Model, flops: Fraction) -> Estimate:
    """Seconds of one trial of ``flops``, and bytes that it adds to its process. ``model``: on the meta device."""
    weights = 4 * FLOAT * costs.parameters["total"]  # with gradients and the two moments of Adam
    held = HELD_KEPT if keeps_memory() and not torch.cuda.is_available() else HELD
    return Estimate(
        seconds_per_trial=float(flops) / (gemm_rate() * UTILISATION),
        memory_bytes=float(FIXED_BYTES + weights + held * activation_bytes(model, costs.batch, costs.tokens)),
    )


def activation_bytes(model: Model, batch: int, tokens: int) -> int:
    """Bytes that one training step saves for its backward pass, without parameters; 0 where that cannot be told.

    ``model``: on the meta device, where nothing is computed.
    """
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(_example(model, batch, tokens))
            F.cross_entropy(
                logits.flatten(0, -2), logits.new_zeros(logits.shape[:-1], dtype=torch.long).flatten()
            )
    except Exception:  # a block of the user's that does not run on the meta device
        return 0
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    return sum(t.untyped_storage().nbytes() for place, t in saved.items() if place not in parameters)


def _example(model: Model, batch: int, tokens: int) -> Tensor:
    """Input of one step on the meta device: token ids, or images."""
    if model.kind == "image_classifier":
        config = model.config
        return torch.empty(batch, config.embedding.channels, *config.image, device="meta")  # type: ignore[attr-defined]
    return torch.empty(batch, tokens, dtype=torch.long, device="meta")
