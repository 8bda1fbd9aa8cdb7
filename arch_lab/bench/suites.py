"""What ``arch-lab bench`` times: each block of this library against what one would use without it.

Legend: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from arch_lab.bench.algorithms import algorithms
from arch_lab.bench.attention import attention
from arch_lab.bench.convolution import convolution
from arch_lab.bench.faults import faults
from arch_lab.bench.gemma import gemma as gemma_suite
from arch_lab.bench.gemma_gpu import gemma_gpu
from arch_lab.bench.images import images
from arch_lab.bench.limits import limits
from arch_lab.bench.linear import linear
from arch_lab.bench.monarch import monarch
from arch_lab.bench.ops_gpu import ops_gpu
from arch_lab.bench.protocol import Row, Skipped, measure, step_of
from blocks import Gemma3AttentionConfig, M2MixerConfig
from blocks.errors import ConfigError, did_you_mean


def mixer() -> Iterator[Row]:
    """The Monarch sequence mixer against full causal attention of the same width.

    Not the same function, the same job.
    """
    width = 256
    for tokens in (512, 2048):
        x = torch.randn(max(1, 2048 // tokens), tokens, width)
        m2 = M2MixerConfig(width=width, max_tokens=tokens).build()
        peer = Gemma3AttentionConfig(width=width, heads=4, kv_heads=1, head_width=64).build()
        shape = f"B {len(x)}, T {tokens}, D {width}"
        with torch.no_grad():
            yield measure("m2_mixer forward", shape, partial(m2, x), "causal SDPA mixer", partial(peer, x))
        yield measure(
            "m2_mixer forward+backward", shape, step_of(m2, x), "causal SDPA mixer", step_of(peer, x)
        )


SUITES: dict[str, Callable[[], Iterator[Row | Skipped]]] = {
    "linear": linear,
    "convolution": convolution,
    "attention": attention,
    "limits": limits,
    "mixer": mixer,
    "gemma": gemma_suite,
    "gemma_gpu": gemma_gpu,
    "ops_gpu": ops_gpu,
    "monarch": monarch,
    "algorithms": algorithms,
    "images": images,
    "faults": faults,
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
