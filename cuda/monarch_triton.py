"""Order-2 Monarch product in one Triton kernel, forward and backward.

Not measured on a GPU.

Legend: M rows; first (K, Q, P), second (L, S, R) with Q = L and R = K (rank 1); x (M, K·P), y (M, S·L). a
counts the K blocks of the first factor, b the L blocks of the second. All tensors contiguous and of one
dtype.

    mid[m, a, b] = sum_i first[a, b, i] x[m, a·P + i]
    y[m, s·L + b] = sum_a second[b, s, a] mid[m, a, b]

tiling      one program a tile of BM rows and GB of the blocks b. It takes the blocks a in steps of GA: a
            batched product (GA, BM, P) x (GA, P, GB), that tile turned from (GA, BM, GB) to (GB, BM, GA), a
            batched product with (GB, GA, S) onto the fp32 (GB, BM, S).
permutation the turn is ``tl.permute`` of a 3-D tile, batch digit and column digit changing places: registers
            exchange values through shared memory, hidden values never reach global memory.
backward    dx is the same kernel run from the other side: the roles of the factors and all strides exchanged.
            Both weights' gradients come from a second kernel that recomputes mid and its gradient for GA x GB
            digits and a split of the rows, writes fp32 partial sums and adds them in a fixed order (no
            atomics, the same bits every run). fp32 digits of 32 take two passes, a factor each.
roof        n = b², a token: 4·b³ FLOPs forward, 4·n bytes in bf16, weights 4·b³ bytes once: 0.24 / 0.95 /
            3.83 ns for b = 16 / 32 / 64, all memory-bound (derived at 790 TFLOP/s and 4.3 TB/s); backward 6·n
            bytes, 0.36 / 1.43 / 5.7 ns. What this tiling adds: x is read L/GB times and every weight once a
            BM rows, both from L2: 10 KB per token at b = 32, where the floor counts 4 KB.

Precision: products accumulate in fp32; mid is rounded to the inputs' dtype before the second product, as two
separate products do. fp32 inputs use "tf32x3" (three tf32 products, dropped term 2^-22); plain "tf32" only if
torch.backends.cuda.matmul asks for it.
Source: arXiv 2204.00595; index map of HazyResearch/fly, src/ops/blockdiag_butterfly_multiply.py. APIs of
Triton 3.6 or older.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DIGITS = {2: (16, 32, 64), 4: (16, 32)}  # by bytes of a number
GROUP = (
    16  # blocks of either factor in one tile: the least a tensor-core product takes as rows, columns or depth
)


@triton.jit
def _cube(i, j, k, I: tl.constexpr, J: tl.constexpr, K: tl.constexpr):
    """Offsets of the 3-D tile [i, j, k] with strides I, J, K."""
    return i[:, None, None] * I + j[None, :, None] * J + k[None, None, :] * K


@triton.jit
def product_kernel(
    x,
    first,
    second,
    y,
    M,
    A: tl.constexpr,  # digit that names a block of the first factor, and I, the digit it sums over
    I: tl.constexpr,
    B: tl.constexpr,  # digit that names a block of the second factor, and O, the digit it writes
    O: tl.constexpr,
    # strides: X of x, F and S of the two factors, Y of y, each along the digit that follows
    XA: tl.constexpr,
    XI: tl.constexpr,
    FA: tl.constexpr,
    FB: tl.constexpr,
    FI: tl.constexpr,
    SB: tl.constexpr,
    SO: tl.constexpr,
    SA: tl.constexpr,
    YB: tl.constexpr,
    YO: tl.constexpr,
    BM: tl.constexpr,
    GA: tl.constexpr,
    GB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    groups: tl.constexpr = B // GB
    start = (tl.program_id(0) // groups).to(tl.int64) * BM  # 64 bits here keep every other index in 32
    m, i, o = tl.arange(0, BM), tl.arange(0, I), tl.arange(0, O)
    b = tl.program_id(0) % groups * GB + tl.arange(0, GB)
    valid_row = (m < M - start)[None, :, None]
    x += start * (A * I)
    total = tl.zeros((GB, BM, O), tl.float32)
    for step in range(0, A, GA):
        a = step + tl.arange(0, GA)
        tile = tl.load(x + _cube(a, m, i, XA, A * I, XI), mask=valid_row, other=0.0)
        mid = tl.dot(tile, tl.load(first + _cube(a, i, b, FA, FI, FB)), input_precision=PRECISION)
        mid_by_block = tl.permute(mid.to(tile.dtype), (2, 1, 0))
        total = tl.dot(
            mid_by_block, tl.load(second + _cube(b, a, o, SB, SA, SO)), total, input_precision=PRECISION
        )
    tl.store(
        y + start * (B * O) + _cube(b, m, o, YB, B * O, YO), total.to(y.dtype.element_ty), mask=valid_row
    )


@triton.jit
def product_weight_kernel(
    gradient,
    x,
    first,
    second,
    dfirst,  # (splits, K, L, P) in fp32
    dsecond,  # (splits, L, S, K) in fp32
    M,
    steps,
    K: tl.constexpr,
    P: tl.constexpr,
    L: tl.constexpr,
    S: tl.constexpr,
    FIRST: tl.constexpr,  # whether to make dfirst, and SECOND dsecond; at least one of them
    SECOND: tl.constexpr,
    BM: tl.constexpr,
    GA: tl.constexpr,
    GB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    split = tl.program_id(1).to(tl.int64)
    m, i, o = tl.arange(0, BM), tl.arange(0, P), tl.arange(0, S)
    a = tl.program_id(0) % (K // GA) * GA + tl.arange(0, GA)
    b = tl.program_id(0) // (K // GA) * GB + tl.arange(0, GB)
    first_total = tl.zeros((GA, GB, P), tl.float32)
    second_total = tl.zeros((GB, GA, S), tl.float32)
    for step in range(steps):
        start = (split * steps + step) * BM
        valid_row = (m < M - start)[None, :, None]
        tile = tl.load(x + start * (K * P) + _cube(a, m, i, P, K * P, 1), mask=valid_row, other=0.0)
        g = tl.load(gradient + start * (S * L) + _cube(b, m, o, 1, S * L, L), mask=valid_row, other=0.0)
        if FIRST:
            dmid = tl.dot(g, tl.load(second + _cube(b, o, a, S * K, K, 1)), input_precision=PRECISION).to(
                tile.dtype
            )
            first_total = tl.dot(tl.permute(dmid, (2, 0, 1)), tile, first_total, input_precision=PRECISION)
        if SECOND:
            mid = tl.dot(tile, tl.load(first + _cube(a, i, b, L * P, 1, P)), input_precision=PRECISION).to(
                tile.dtype
            )
            second_total = tl.dot(tl.permute(mid, (2, 0, 1)), g, second_total, input_precision=PRECISION)
    if FIRST:
        tl.store(dfirst + split * (K * L * P) + _cube(a, b, i, L * P, P, 1), first_total)
    if SECOND:
        tl.store(dsecond + split * (L * S * K) + _cube(b, a, o, S * K, 1, K), second_total)


# The host's side. Tiles are chosen by what the compilers say fits (cuda/README.md), not by a measured speed.


class Tiles(NamedTuple):
    """Constants of one kernel, and its launch options."""

    constants: dict[str, int]
    num_warps: int
    num_stages: int


def product_tiles(rows: int, itemsize: int) -> Tiles:
    return Tiles({"BM": _rows(rows, 32 if itemsize == 2 else 16), "GA": GROUP, "GB": GROUP}, 8, 2)


def product_weight_tiles(p: int, s: int, itemsize: int) -> Tiles:
    # a second stage of loads does not fit beside large digits
    return Tiles({"BM": 16, "GA": GROUP, "GB": GROUP}, 8, 2 if max(p, s) * itemsize <= 64 else 1)


def one_pass(p: int, s: int, itemsize: int) -> bool:
    """Whether the sums of both factors fit in registers together."""
    return itemsize == 2 or max(p, s) == 16


def product_strides(k: int, p: int, l: int, s: int) -> dict[str, int]:
    """Sizes and strides of ``product_kernel`` for x -> y."""
    sizes = {"A": k, "I": p, "B": l, "O": s}
    return {
        **sizes,
        "XA": p,
        "XI": 1,
        "FA": l * p,
        "FB": p,
        "FI": 1,
        "SB": s * k,
        "SO": k,
        "SA": 1,
        "YB": 1,
        "YO": l,
    }


def transposed_strides(k: int, p: int, l: int, s: int) -> dict[str, int]:
    """Those for gradient -> dx, which passes the second factor first.

    Blocks b sum over s, blocks a write i.
    """
    sizes = {"A": l, "I": s, "B": k, "O": p}
    return {
        **sizes,
        "XA": 1,
        "XI": l,
        "FA": s * k,
        "FB": 1,
        "FI": k,
        "SB": l * p,
        "SO": 1,
        "SA": p,
        "YB": p,
        "YO": 1,
    }


def serves(device_type: str, dtype: torch.dtype, **sizes: Any) -> str | None:
    """None when the kernels take this, else why not. Sizes: op="product", rows, k, q, p, l, s, r."""
    interpreted = not isinstance(product_kernel, triton.JITFunction)
    if device_type != "cuda" and not interpreted:
        return f"Triton kernels need a CUDA device, not {device_type}"
    if dtype not in DTYPES:
        return f"no kernel for {dtype}, only float32, bfloat16 and float16"
    if interpreted and dtype == torch.bfloat16:
        return "Triton's interpreter multiplies the bit patterns of bfloat16"
    if sizes["op"] != "product":
        return f"no kernel for op {sizes['op']!r}, only product"
    k, q, p, l, s, r = (sizes[name] for name in "kqplsr")
    if q != l or r != k:
        return f"factors ({k}, {q}, {p}) and ({l}, {s}, {r}) are not of rank 1 (q = l, r = k)"
    digits = DIGITS[dtype.itemsize]
    if not {k, p, l, s} <= set(digits):
        return (
            f"digits {k}, {p}, {l}, {s} are not all among {', '.join(map(str, digits))}, "
            f"those whose tiles of {dtype} fit on chip"
        )
    return None


def product_forward(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """x (M, K·P), first (K, L, P), second (L, S, K) -> (M, S·L)."""
    k, p, l, s = _sizes(x, first, second)
    return _product(x, first, second, l * s, product_strides(k, p, l, s))


def product_backward(
    gradient: Tensor, x: Tensor, first: Tensor, second: Tensor, need: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, first and second, those that ``need`` asks for; gradient (M, S·L)."""
    k, p, l, s = _sizes(x, first, second)
    _check(x.dtype, gradient=(gradient, (len(x), l * s)))
    dx = _product(gradient, second, first, k * p, transposed_strides(k, p, l, s)) if need[0] else None
    # both factors in one pass over x and the gradient, unless their sums together would not fit
    passes = [need[1:]] if one_pass(p, s, x.element_size()) else [(need[1], False), (False, need[2])]
    dfirst, dsecond = None, None
    for factors in passes:
        if any(factors):
            gradients = _weights(gradient, x, first, second, factors)
            dfirst, dsecond = (
                new if new is not None else old for new, old in zip(gradients, (dfirst, dsecond), strict=True)
            )
    return dx, dfirst, dsecond


def _weights(
    gradient: Tensor, x: Tensor, first: Tensor, second: Tensor, needed: tuple[bool, bool]
) -> list[Tensor | None]:
    (k, l, p), s = first.shape, second.shape[1]
    tiles = product_weight_tiles(p, s, x.element_size())
    places = (k // GROUP) * (l // GROUP)
    splits, steps = _split(x, places, tiles.constants["BM"])
    partial = [
        x.new_empty((splits, *f.shape), dtype=torch.float32) if is_needed else None
        for f, is_needed in zip((first, second), needed, strict=True)
    ]
    # a pointer that nothing is written to still has to be one of fp32
    pointers = [
        next(other for other in partial if other is not None) if pointer is None else pointer
        for pointer in partial
    ]
    with torch.cuda.device_of(x):  # Triton starts kernels on the current device
        product_weight_kernel[places, splits](
            *(gradient, x, first, second, *pointers, len(x), steps),
            **{"K": k, "P": p, "L": l, "S": s, "FIRST": needed[0], "SECOND": needed[1], **tiles.constants},
            PRECISION=precision(x.dtype),
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
    return [None if gradient is None else gradient.sum(0).to(x.dtype) for gradient in partial]


def _product(x: Tensor, first: Tensor, second: Tensor, outputs: int, sizes: dict[str, int]) -> Tensor:
    y = x.new_empty((len(x), outputs))
    tiles = product_tiles(len(x), x.element_size())
    grid = (triton.cdiv(len(x), tiles.constants["BM"]) * (sizes["B"] // GROUP),)
    with torch.cuda.device_of(x):
        product_kernel[grid](
            *(x, first, second, y, len(x)),
            **{**sizes, **tiles.constants},
            PRECISION=precision(x.dtype),
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
    return y


def precision(dtype: torch.dtype) -> str:
    """How fp32 operands are multiplied; 16-bit ones are what they are."""
    # read by the newer name: the older one, allow_tf32, sets this and raises once this was set
    return (
        "tf32x3" if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32" else "tf32"
    )


def _rows(rows: int, largest: int) -> int:
    return min(largest, max(16, triton.next_power_of_2(rows)))


def _split(x: Tensor, places: int, bm: int) -> tuple[int, int]:
    """The number of row ranges, and of row tiles in each.

    Two programs per multiprocessor, 4 tiles a range or more.
    """
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 4
    row_tiles = triton.cdiv(len(x), bm)
    steps = max(4, triton.cdiv(row_tiles, max(1, 2 * processors // places)))
    return max(1, triton.cdiv(row_tiles, steps)), steps


def _sizes(x: Tensor, first: Tensor, second: Tensor) -> tuple[int, int, int, int]:
    (k, q, p), (l, s, r) = first.shape, second.shape
    _refuse(serves(x.device.type, x.dtype, op="product", rows=len(x), k=k, q=q, p=p, l=l, s=s, r=r))
    _check(x.dtype, x=(x, (len(x), k * p)), first=(first, (k, l, p)), second=(second, (l, s, k)))
    return k, p, l, s


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise ValueError(f"Monarch product kernel: {reason}")


def _check(dtype: torch.dtype, **tensors: tuple[Tensor, tuple[int, ...]]) -> None:
    """Raises: ValueError for a tensor of another shape or dtype, or one whose memory is not contiguous: the
    kernels take raw pointers.
    """
    for name, (tensor, shape) in tensors.items():
        if tensor.shape != shape or tensor.dtype != dtype:
            _refuse(f"{name} must be {shape} of {dtype}, got {tuple(tensor.shape)} of {tensor.dtype}")
        if not tensor.is_contiguous():
            _refuse(f"{name} is not contiguous; pass {name}.contiguous()")
