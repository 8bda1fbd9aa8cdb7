"""``arch-lab bench convolution``: the long causal convolution against three ways to write it by hand.

Legend: B batch, T tokens, D channels, N = 2T transform length.
Channel-major memory on our side, as inside the mixers, and contiguous (B, D, T) for the peers. ``torch, whole``
transforms the tensor at once, ``torch, chunked`` and ``scipy.fft, chunked`` loop over groups of channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from arch_lab.bench.pages import can_switch, on_small_pages
from arch_lab.bench.protocol import Call, Row, Skipped, measure, one_thread_clock, with_gradients
from blocks.convolution.fft import causal_convolution

CHANNELS, GROUP = 256, 32
SIZES = ((4, 4096), (1, 16384))  # (B, T)
REPEATS = 7


def convolution() -> Iterator[Row | Skipped]:
    """Forward and backward against torch, forward against scipy."""
    torch.manual_seed(0)
    for batch, tokens in SIZES:
        u = torch.randn(CHANNELS, batch, tokens).transpose(0, 1)
        k = torch.randn(CHANNELS, tokens) / tokens**0.5
        contiguous = u.contiguous()
        subject = with_gradients(causal_convolution, (u, k))
        whole, by_groups = (with_gradients(f, (contiguous, k)) for f in (whole_tensor, chunked))
        peers = {"torch, whole": whole, "torch, chunked": by_groups}
        if can_switch():
            peers["torch, whole, small pages"] = on_small_pages(whole)
        shape = f"B {batch}, D {CHANNELS}, T {tokens}"
        for peer, baseline in peers.items():
            yield _row("long convolution forward+backward", shape, subject, peer, baseline)
        forward = partial(causal_convolution, u, k)
        yield from _scipy_row(shape, forward, contiguous, k)


def _row(name: str, shape: str, subject: Call, peer: str, baseline: Call) -> Row:
    return measure(name, shape, subject, peer, baseline, same=True, repeats=REPEATS, clock=one_thread_clock())


def _scipy_row(shape: str, forward: Call, u: Tensor, k: Tensor) -> Iterator[Row | Skipped]:
    if find_spec("scipy") is None:
        yield Skipped(name="long convolution forward", reason="scipy is not installed: pip install scipy")
        return
    with torch.no_grad():
        yield _row("long convolution forward", shape, forward, "scipy.fft, chunked", scipy_chunked(u, k))


def whole_tensor(u: Tensor, k: Tensor) -> Tensor:
    tokens = u.shape[-1]
    spectrum = torch.fft.rfft(u, n=2 * tokens) * torch.fft.rfft(k, n=2 * tokens)
    return torch.fft.irfft(spectrum, n=2 * tokens)[..., :tokens]


def chunked(u: Tensor, k: Tensor) -> Tensor:
    groups = zip(u.split(GROUP, dim=1), k.split(GROUP), strict=True)
    return torch.cat([whole_tensor(of_u, of_k) for of_u, of_k in groups], dim=1)


def scipy_chunked(u: Tensor, k: Tensor) -> Callable[[], Tensor]:
    fft = import_module("scipy.fft")
    signal, kernel, tokens, workers = u.numpy(), k.numpy(), u.shape[-1], torch.get_num_threads()
    y = torch.empty_like(u)
    target = y.numpy()

    def call() -> Tensor:
        for first in range(0, len(kernel), GROUP):
            channels = slice(first, first + GROUP)
            spectrum = fft.rfft(signal[:, channels], n=2 * tokens, workers=workers)
            spectrum *= fft.rfft(kernel[channels], n=2 * tokens, workers=workers)
            target[:, channels] = fft.irfft(spectrum, n=2 * tokens, workers=workers, overwrite_x=True)[
                ..., :tokens
            ]
        return y

    return call
