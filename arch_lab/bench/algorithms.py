"""``arch-lab bench algorithms``: every algorithm of the long convolution against the FFT, around the
thresholds of the dispatch.

Legend: B batch, T tokens, D channels, S taps.
Forward and backward, as in training, channel-major as inside the mixers. Where a ratio lies above 1 the
dispatch should not take the FFT.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from arch_lab.bench.protocol import Row, measure
from blocks.convolution.algorithms import Algorithm, choose, long_convolution

CHANNELS = 256
# (B, T, S), and what is tried there beside the FFT: on both sides of each threshold
SIZES: tuple[tuple[int, int, int, tuple[Algorithm, ...]], ...] = (
    (1, 8, 8, ("toeplitz", "direct")),
    (1, 16, 16, ("toeplitz", "direct")),
    (8, 16, 16, ("toeplitz", "direct")),
    (8, 32, 32, ("toeplitz", "direct")),
    (32, 32, 32, ("toeplitz", "direct")),
    (32, 64, 64, ("toeplitz",)),
    (8, 64, 64, ("toeplitz", "monarch")),
    (8, 256, 256, ("toeplitz", "monarch")),
    (4, 1024, 16, ("direct", "toeplitz")),
    (4, 1024, 32, ("direct", "toeplitz")),
    (4, 2048, 2048, ("monarch",)),
)


def algorithms() -> Iterator[Row]:
    """One row an algorithm and size; the shape names what ``choose`` takes."""
    torch.manual_seed(0)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for batch, tokens, taps, tried in SIZES:
        u = torch.randn(CHANNELS, batch, tokens).transpose(0, 1).requires_grad_()
        k = torch.randn(CHANNELS, taps).div_(taps**0.5).requires_grad_()
        implementation = choose(batch=batch, tokens=tokens, taps=taps, causal=True).implementation
        shape = f"B {batch}, T {tokens}, S {taps}, D {CHANNELS} (taken: {implementation})"
        fft = _step(u, k, "fft")
        for algorithm in tried:
            yield measure(
                algorithm, shape, _step(u, k, algorithm), "fft", fft, same=True, repeats=9, clock=clock
            )


def _step(u: torch.Tensor, k: torch.Tensor, algorithm: Algorithm) -> Callable[[], torch.Tensor]:
    """Forward and backward; returns the output, which the protocol compares."""
    convolve, gradient = partial(long_convolution, algorithm=algorithm), torch.randn_like(u)

    def call() -> torch.Tensor:
        y = convolve(u, k)
        torch.autograd.grad(y, (u, k), gradient)
        return y.detach()

    return call
