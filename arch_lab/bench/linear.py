"""``arch-lab bench linear``: block-diagonal maps against what one would write without them.

Legend: M tokens, D width, K blocks.
Forward and backward, gradients of input and weight included. ``einsum`` and ``bmm with copy`` compute the same
map, and so does the dense one with zeros outside of its blocks: all are compared before they are timed (of the
dense one output and gradient of the input, since its weight has more gradients).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from arch_lab.bench.protocol import Row, gate, measure, one_thread_clock, with_gradients
from blocks.ops.block_diagonal import block_diagonal_matmul

BLOCKS = 4
SIZES = ((1024, 128), (4096, 128), (1024, 256), (4096, 256), (4096, 768))  # (M, D)
REPEATS = 15


def linear() -> Iterator[Row]:
    """One row per size and peer."""
    torch.manual_seed(0)
    for tokens, width in SIZES:
        x = torch.randn(tokens, width)
        weight = torch.randn(BLOCKS, width // BLOCKS, width // BLOCKS) * (BLOCKS / width) ** 0.5
        subject = with_gradients(block_diagonal_matmul, (x, weight))
        shape = f"{tokens} x {width} -> {width}, {BLOCKS} blocks"
        name, clock = "block-diagonal linear forward+backward", one_thread_clock()
        for peer, function in (("einsum", einsum), ("bmm with copy", bmm_with_copy)):
            baseline = with_gradients(function, (x, weight))
            yield measure(name, shape, subject, peer, baseline, same=True, repeats=REPEATS, clock=clock)
        dense = with_gradients(F.linear, (x, torch.block_diag(*weight)))
        gate(name, subject()[:2], dense()[:2])
        yield measure(name, shape, subject, "dense", dense, repeats=REPEATS, clock=clock)


def einsum(x: Tensor, weight: Tensor) -> Tensor:
    k, _, p = weight.shape
    return torch.einsum("mkp,kqp->mkq", x.view(len(x), k, p), weight).reshape(len(x), -1)


def bmm_with_copy(x: Tensor, weight: Tensor) -> Tensor:
    k, _, p = weight.shape
    y = torch.bmm(x.view(len(x), k, p).transpose(0, 1), weight.mT)
    return y.transpose(0, 1).reshape(len(x), -1)
