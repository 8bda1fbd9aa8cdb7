"""What ``arch-lab bench`` times: each block of this library against what one would use without it.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from arch_lab.bench.algorithms import algorithms
from arch_lab.bench.gemma import gemma as gemma_suite
from arch_lab.bench.gemma_gpu import gemma_gpu
from arch_lab.bench.images import images
from arch_lab.bench.monarch import monarch
from arch_lab.bench.ops_gpu import ops_gpu
from arch_lab.bench.protocol import Row, Skipped, measure, step_of
from blocks import BlockDiagonalLinearConfig, Gemma3AttentionConfig, M2MixerConfig
from blocks.convolution.fft import causal_convolution
from blocks.errors import ConfigError, did_you_mean


@torch.no_grad()
def linear() -> Iterator[Row]:
    """A block-diagonal map against the dense one of the same sizes."""
    for features, tokens in ((256, 4096), (768, 4096)):
        x = torch.randn(tokens, features)
        block_diagonal, dense = (
            BlockDiagonalLinearConfig(in_features=features, out_features=features, blocks=4).build(),
            nn.Linear(features, features),
        )
        shape = f"{tokens} x {features} -> {features}, 4 blocks"
        yield measure(
            "block_diagonal_linear", shape, partial(block_diagonal, x), "dense linear", partial(dense, x)
        )


@torch.no_grad()
def convolution() -> Iterator[Row]:
    """The channel-chunked causal convolution against one whole-tensor rfft.

    Both must give the same numbers.
    """
    for tokens in (1024, 4096):
        u, k = torch.randn(4096 // tokens, 256, tokens), torch.randn(256, tokens) / tokens**0.5

        def whole_tensor(u: torch.Tensor = u, k: torch.Tensor = k, n: int = tokens) -> torch.Tensor:
            return torch.fft.irfft(torch.fft.rfft(u, n=2 * n) * torch.fft.rfft(k, n=2 * n), n=2 * n)[..., :n]

        shape = f"B {len(u)}, D 256, T {tokens}"
        yield measure(
            "causal_convolution",
            shape,
            partial(causal_convolution, u, k),
            "whole-tensor rfft",
            whole_tensor,
            same=True,
        )


def mixer() -> Iterator[Row]:
    """The Monarch sequence mixer against full causal attention of the same width.

    Not the same function, the same job.
    """
    width = 256
    for tokens in (512, 2048):
        x = torch.randn(max(1, 2048 // tokens), tokens, width)
        m2 = M2MixerConfig(width=width, max_tokens=tokens).build()
        attention = Gemma3AttentionConfig(width=width, heads=4, kv_heads=1, head_width=64).build()
        shape = f"B {len(x)}, T {tokens}, D {width}"
        with torch.no_grad():
            yield measure(
                "m2_mixer forward", shape, partial(m2, x), "causal SDPA mixer", partial(attention, x)
            )
        yield measure(
            "m2_mixer forward+backward", shape, step_of(m2, x), "causal SDPA mixer", step_of(attention, x)
        )


SUITES: dict[str, Callable[[], Iterator[Row | Skipped]]] = {
    "linear": linear,
    "convolution": convolution,
    "mixer": mixer,
    "gemma": gemma_suite,
    "gemma_gpu": gemma_gpu,
    "ops_gpu": ops_gpu,
    "monarch": monarch,
    "algorithms": algorithms,
    "images": images,
}


def run_suite(name: str) -> Iterator[Row | Skipped]:
    """Rows of one suite, or of all of them in order for ``all``.

    Raises: ConfigError with the nearest name.
    """
    if name != "all" and name not in SUITES:
        raise ConfigError(
            f"unknown benchmark {name!r}{did_you_mean(name, [*SUITES, 'step', 'throughput', 'all'])}"
        )
    for suite in SUITES if name == "all" else (name,):
        yield from SUITES[suite]()
