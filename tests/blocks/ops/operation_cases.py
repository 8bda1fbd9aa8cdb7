"""Every operation with inputs of odd sizes and a definition that shares no code with what runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.convolution.direct import causal_convolution_direct
from blocks.convolution.gated_causal import gated_causal_conv
from blocks.dispatch import IMPLEMENTATIONS, operation, use_implementation
from blocks.ops.block_diagonal import block_diagonal_matmul
from blocks.ops.glu import block_diagonal_glu
from blocks.ops.monarch import monarch_matmul

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # then Triton kernels run on CPU tensors, in float32


@dataclass(frozen=True)
class Call:
    operation: str
    run: Callable[..., Tensor]
    definition: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...] | None, ...]

    @property
    def label(self) -> str:
        return f"{self.operation} {self.shapes[0]}"

    @property
    def sizes(self) -> dict[str, int]:
        """As ``Operation.choose`` takes them, read off the shapes."""
        x, *others = (shape or () for shape in self.shapes)
        rows = prod(x[:-1])
        if self.operation == "causal_conv":
            (three, batch, tokens), (_, short_taps), taps = x, others[0], others[2][1]
            return {
                "channels": three // 3,
                "batch": batch,
                "tokens": tokens,
                "taps": min(taps, tokens),
                "short_taps": short_taps,
            }
        if self.operation == "block_diagonal_glu":
            return {"rows": rows, "width": x[-1], "ffn_width": others[1][0] * others[1][2], "k": others[1][0]}
        sizes = dict(zip("kqp", others[0], strict=True))
        if self.operation == "monarch_matmul":
            sizes |= dict(zip("lsr", others[1], strict=True))
        return {"rows": rows, **sizes}

    def inputs(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor | None]:
        generator = torch.Generator().manual_seed(seed)
        return [
            None if shape is None else torch.randn(shape, dtype=dtype, generator=generator).requires_grad_()
            for shape in self.shapes
        ]


def _blocks(weight: Tensor) -> Tensor:
    return torch.block_diag(*weight)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = x @ _blocks(weight).mT
    return y if bias is None else y + bias


def glu(x: Tensor, up: Tensor, down: Tensor, bias: Tensor | None = None) -> Tensor:
    hidden = linear(x, up)
    half = hidden.shape[-1] // 2
    return linear(F.gelu(hidden[..., :half]) * hidden[..., half:], down, bias)


def monarch(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    length, s, r = second.shape
    index = torch.arange(length * r).view(r, length).mT.flatten()  # value r·L + l goes to place (l, r)
    y = linear(linear(x, first)[..., index], second)
    return y[..., torch.arange(length * s).view(length, s).mT.flatten()]


def gated(z: Tensor, weight: Tensor, bias: Tensor, kernel: Tensor) -> Tensor:
    taps = weight.shape[1]
    c = bias[:, None, None] + sum(
        weight[:, taps - 1 - lag, None, None] * F.pad(z, (lag, 0))[..., : z.shape[-1]] for lag in range(taps)
    )
    before, after, value = c.chunk(3)
    return after * causal_convolution_direct((before * value).transpose(0, 1), kernel).transpose(0, 1)


def _gated(d: int, b: int, t: int, s: int, w: int = 3) -> Call:
    return Call("causal_conv", gated_causal_conv, gated, ((3 * d, b, t), (3 * d, w), (3 * d,), (d, s)))


CALLS = [
    *(
        Call("block_diagonal_matmul", block_diagonal_matmul, linear, (x, (3, 5, 7), b))
        for x in ((1, 21), (2, 35, 21))
        for b in ((15,), None)
    ),
    Call("block_diagonal_matmul", block_diagonal_matmul, linear, ((65, 1), (1, 1, 1), None)),
    *(
        Call("block_diagonal_glu", block_diagonal_glu, glu, (x, (2, 22, 5), (2, 5, 11), b))
        for x in ((3, 10), (67, 10))
        for b in ((10,), None)
    ),
    *(
        Call("monarch_matmul", monarch_matmul, monarch, (x, (3, 4, 5), (2, 3, 6)))
        for x in ((1, 15), (3, 23, 15))
    ),
    Call("monarch_matmul", monarch_matmul, monarch, ((64, 16), (4, 4, 4), (4, 4, 4))),
    Call(
        "monarch_matmul", monarch_matmul, monarch, ((9, 256), (16, 16, 16), (16, 16, 16))
    ),  # digits that kernels have tiles for
    _gated(2, 1, 1, 1),
    _gated(3, 2, 7, 7),  # few tokens: block-Toeplitz
    _gated(2, 3, 33, 40),  # taps beyond the sequence
    _gated(3, 2, 70, 5, w=2),  # few taps: direct
    _gated(2, 1, 129, 129, w=1),
]


def runnable(call: Call) -> list[str]:
    """The implementations that serve a call's sizes on this machine's processor."""
    op = operation(call.operation)
    dtype = {"triton": torch.float32}
    return [
        n
        for n in IMPLEMENTATIONS[op.name]
        if op.why_not(n, "cpu", dtype.get(n, torch.float64), call.sizes) is None
    ]


FORCED = [(call, name) for call in CALLS for name in runnable(call)]
FORCED_IDS = [f"{call.label}-{name}" for call, name in FORCED]


def run(call: Call, name: str, inputs: list[Tensor | None]) -> tuple[Tensor, list[Tensor]]:
    """Output and gradients of every input, under ``use_implementation``."""
    with use_implementation(name):
        y = call.run(*inputs)
    return y, gradients(y, inputs)


def gradients(y: Tensor, inputs: list[Tensor | None]) -> list[Tensor]:
    weights: Any = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return list(torch.autograd.grad((y * weights).sum(), [t for t in inputs if t is not None]))
