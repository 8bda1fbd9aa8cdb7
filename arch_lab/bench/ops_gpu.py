"""The operations of ``blocks.ops`` on a GPU, each against what one would use without it.

Legend: B sequences, T tokens, D width, K blocks, F hidden channels, n = b² size of a Monarch matrix, M rows.
Protocol: arch_lab.bench.cold. bfloat16; "forward + backward" takes gradients of every input, weights
included. Bytes are the least a fused kernel can move, FLOPs the canonical ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from arch_lab.bench.cold import ColdRow, measure_roof, release
from arch_lab.bench.groups import BYTES, Contender, Group, OpsBench, time_group
from arch_lab.bench.layer_gpu import layers
from arch_lab.bench.protocol import GateError, Skipped
from blocks.convolution.gated_causal import gated_causal_conv
from blocks.ops.block_diagonal import block_diagonal_matmul
from blocks.ops.glu import block_diagonal_glu
from blocks.ops.monarch import monarch_matmul

NO_CUDA = "torch sees no CUDA device here; run `make bench-gpu` on a machine with one"
SHORT_TAPS = 3


def ops_gpu() -> Iterator[ColdRow | Skipped]:
    """Every group, or the one reason why not."""
    if not torch.cuda.is_available():
        yield Skipped(name="ops_gpu", reason=NO_CUDA)
    else:
        yield from op_rows(OpsBench())


def op_rows(bench: OpsBench) -> Iterator[ColdRow | Skipped]:
    """A row for each peer of each group.

    A kernel that fails or disagrees with its definition is a line with the reason.
    """
    torch.manual_seed(0)
    roof = measure_roof(bench.device, bench.dtype)
    for groups in (convolutions, products, units, linears, layers):
        for group, backward in product(groups(bench), (False, True)):
            try:
                yield from time_group(bench, group, roof, backward=backward)
            except GateError as error:
                yield Skipped(name=f"{group.name}, {group.shape}", reason=str(error))
            release(bench.device)


# --- gated causal convolution -------------------------------------------------------------------------------


def fft_path(z: Tensor, short_weight: Tensor, short_bias: Tensor, kernel: Tensor) -> Tensor:
    """The same convolution in plain torch.

    Depth-wise convolution, gates, one real transform of everything in float32 (float64 kept).
    """
    tokens, d = z.shape[-1], len(kernel)
    c = F.conv1d(z.transpose(0, 1), short_weight[:, None], short_bias, padding=SHORT_TAPS - 1, groups=3 * d)[
        ..., :tokens
    ]
    gate_in, gate_out, value = c.chunk(3, dim=1)
    wide = torch.promote_types(z.dtype, torch.float32)
    u, n = (gate_in * value).to(wide), 2 * tokens
    y = torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft(kernel.to(wide), n=n), n=n)[..., :tokens]
    return (gate_out * y.to(z.dtype)).transpose(0, 1)


def convolutions(bench: OpsBench) -> Iterator[Group]:
    d = bench.conv_width
    for tokens in bench.conv_tokens:
        b = max(1, bench.conv_rows // tokens)
        z, short = bench.randn(3 * d, b, tokens), bench.randn(3 * d, SHORT_TAPS, scale=SHORT_TAPS**-0.5)
        inputs = (z, short, bench.randn(3 * d), bench.randn(d, tokens, scale=tokens**-0.5))
        peer: Contender = (fft_path, inputs)
        elements = d * b * tokens
        length = 2 * tokens
        yield Group(
            name="gated causal convolution",
            shape=f"B {b}, D {d}, T {tokens}",
            contenders={
                "ours": (gated_causal_conv, inputs),
                "torch.fft": peer,
                **bench.compile("torch.fft", peer),
            },
            definition=fft_path,
            # reads three, writes one; backward reads those three and the gradient, and writes three
            bytes_moved=(4 * BYTES * elements, (4 + 7) * BYTES * elements),
            flops=int(elements * (10 * (length.bit_length() - 1) + 6 + 6 * SHORT_TAPS)),
        )


# --- Monarch product ----------------------------------------------------------------------------------------


def bmm_and_permutes(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The product as the released code computes it.

    Two batched GEMMs with copies where the order of channels changes.
    """
    k, l = len(first), len(second)
    h = torch.bmm(rearrange(x, "m (k p) -> k m p", k=k), first.mT)
    z = rearrange(rearrange(h, "k m q -> m (k q)"), "m (r l) -> l m r", l=l).contiguous()
    return rearrange(torch.bmm(z, second.mT), "l m s -> m (s l)").contiguous()


def products(bench: OpsBench) -> Iterator[Group]:
    for b in bench.monarch_blocks:
        n = b * b
        x, first, second = (
            bench.randn(bench.rows, n),
            bench.randn(b, b, b, scale=b**-0.5),
            bench.randn(b, b, b, scale=b**-0.5),
        )
        peer: Contender = (bmm_and_permutes, (x, first, second))
        yield Group(
            name="Monarch product",
            shape=f"M {bench.rows}, n {n}, b {b}",
            contenders={
                "ours": (monarch_matmul, (x, first, second)),
                "bmm + permutes": peer,
                **bench.compile("bmm + permutes", peer),
                "dense linear": (F.linear, (x, bench.randn(n, n, scale=n**-0.5))),
            },
            definition=bmm_and_permutes,
            # backward reads x and the gradient and writes x's
            bytes_moved=(2 * BYTES * bench.rows * n, 5 * BYTES * bench.rows * n),
            flops=4 * bench.rows * n * b,
        )


# --- block-diagonal maps ------------------------------------------------------------------------------------


def bmm_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Strided views, one batched GEMM, the copy that puts the blocks side by side."""
    return rearrange(
        torch.bmm(rearrange(x, "m (k p) -> k m p", k=len(weight)), weight.mT), "k m q -> m (k q)"
    )


def bmm_unit(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    gate, value = bmm_linear(x, up).chunk(2, dim=-1)
    return bmm_linear(F.gelu(gate) * value, down)


def einsum_linear(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("mkp,kqp->mkq", x.unflatten(-1, (len(weight), -1)), weight).flatten(1)


def dense_unit(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    gate, value = F.linear(x, up).chunk(2, dim=-1)
    return F.linear(F.gelu(gate) * value, down)


def units(bench: OpsBench) -> Iterator[Group]:
    k = bench.blocks
    for d in bench.glu_widths:
        f, x = 4 * d, bench.randn(bench.rows, d)
        up, down = (
            bench.randn(k, 2 * f // k, d // k, scale=(k / d) ** 0.5),
            bench.randn(k, d // k, f // k, scale=(k / f) ** 0.5),
        )
        peer: Contender = (bmm_unit, (x, up, down))
        dense: Contender = (
            dense_unit,
            (x, bench.randn(2 * f, d, scale=d**-0.5), bench.randn(d, f, scale=f**-0.5)),
        )
        yield Group(
            name="block-diagonal GLU",
            shape=f"M {bench.rows}, {d} -> {f} -> {d}, {k} blocks",
            contenders={
                "ours": (block_diagonal_glu, peer[1]),
                "bmm": peer,
                **bench.compile("bmm", peer),
                "dense GeGLU": dense,
            },
            definition=bmm_unit,
            bytes_moved=(2 * BYTES * bench.rows * d, 5 * BYTES * bench.rows * d),
            flops=6 * bench.rows * d * f // k,
        )


def linears(bench: OpsBench) -> Iterator[Group]:
    k = bench.blocks
    for i, o in bench.linear_sizes:
        x, weight = bench.randn(bench.rows, i), bench.randn(k, o // k, i // k, scale=(k / i) ** 0.5)
        yield Group(
            name="block-diagonal linear",
            shape=f"M {bench.rows}, {i} -> {o}, {k} blocks",
            contenders={
                "ours": (block_diagonal_matmul, (x, weight)),
                "bmm": (bmm_linear, (x, weight)),
                "einsum": (einsum_linear, (x, weight)),
                "dense linear": (F.linear, (x, bench.randn(o, i, scale=i**-0.5))),
            },
            definition=bmm_linear,
            bytes_moved=(BYTES * bench.rows * (i + o), BYTES * bench.rows * (3 * i + 2 * o)),
            flops=2 * bench.rows * i * o // k,
        )
