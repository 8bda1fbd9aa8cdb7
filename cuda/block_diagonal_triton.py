"""Block-diagonal linear map and the gated unit made of two of them, forward and backward, in Triton.

Not measured on a GPU.

Legend: M rows, K blocks, P inputs and Q outputs of one block; gated unit: D = K·P width, F = K·H ffn_width, H
hidden values of one down-block. x (M, K·P), weight (K, Q, P), bias (K·Q,); up (K, 2H, P), down (K, P, H). All
tensors contiguous and of one dtype.

Linear      y[k·Q + q] = sum_p weight[k, q, p] x[k·P + p] + bias
  forward   one program a tile of BM rows x BO outputs of one block, the contraction in steps of BI. Tiles of
            the same rows follow each other, so x comes from memory once and from L2 after that.
  backward  two kernels. One pass, in which dx and dweight share the read of the gradient, needs the whole
            fp32 dweight of a block in registers beside dx: 192 x 192 is padded to 256 x 256 = 256 registers a
            thread of 256 threads. So dx is the forward kernel with the weight's strides exchanged, and
            dweight and dbias share a second kernel that splits the rows, writes fp32 partial sums and adds
            them in a fixed order: no atomics, the same bits every run. The second read of the gradient (25 MB
            for 16K tokens of 768 in bf16) fits an L2 of 50 MB.
  roof      a token: 2·K·P·Q FLOPs, 2·K·(P + Q) bytes in bf16, weights aside. Derived floors at 790 TFLOP/s
            and 4.3 TB/s, 4 blocks: 768 -> 768 0.72 ns (memory), 768 -> 3072 1.80 ns (memory), 2048 -> 2048
            2.65 ns (compute); backward of 768 -> 768 1.43 ns.

Gated unit  down(gelu(gate) · value) + bias, exact (erf) GELU, hidden = up(x), gate the first F of the 2F
            hidden channels, value the others
  index     down-block j reads gate and value rows j·H .. (j+1)·H. An up-block holds 2H rows, so with an even
            K these are one half of the up-blocks j//2 and K/2 + j//2: output block j depends on two blocks of
            x, whole, and down-blocks come in pairs that share them.
  forward   one program a (BM rows, down-block j): both x-blocks stay on chip, hidden channels pass in steps
            of BH. Hidden values never reach memory.
  backward  they are recomputed, twice: the dx kernel owns (rows, pair of down-blocks) and both x-blocks'
            gradients; the weight kernel owns (BH hidden channels of a down-block, split of rows) and the
            gradients of both weights. One kernel for both would have to add dx with atomics. dbias is a
            column sum of the gradient by torch, which keeps the weight kernel within its registers.
  roof      a token: 6·D·F/K FLOPs forward, 4·D bytes: 4.48 ns compute against 0.71 ns memory at D = 768, F =
            3072 (derived), where the unfused path moves 9.29 ns. Backward 22·D·F/K FLOPs with both
            recomputations.
  tiles     a block's P channels are held as PA + PB, two powers of two: 192 = 128 + 64 wastes nothing, one
            tile of 256 a quarter.

Precision: products accumulate in fp32, hidden values are rounded to the inputs' dtype before they are
multiplied again, as the unfused path does. fp32 inputs use "tf32x3", three tf32 products whose dropped term
is 2^-22, on tensor cores; the gated unit's weight kernel, where they spill, "ieee" without tensor cores;
plain "tf32" (2^-11) only if torch.backends.cuda.matmul asks for it.
Source: index maps of HazyResearch/m2, bert/src/mm/blockdiag_linear.py and bert/src/bert_layers.py. APIs of
Triton 3.6 or older.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDEST_GLU_BLOCK = {
    2: 256,
    4: 192,
}  # by bytes of a number: channels of one block that fit on chip, twice, next to the tiles of both maps


@triton.jit
def _load(pointer, i, j, end_i, end_j, STRIDE_I: tl.constexpr, STRIDE_J: tl.constexpr):
    """The tile [i, j] of a matrix, zeros beyond its ends."""
    return tl.load(
        pointer + i[:, None] * STRIDE_I + j[None, :] * STRIDE_J,
        mask=(i < end_i)[:, None] & (j < end_j)[None, :],
        other=0.0,
    )


@triton.jit
def _store(pointer, tile, i, j, end_i, end_j, STRIDE_I: tl.constexpr, STRIDE_J: tl.constexpr):
    address = pointer + i[:, None] * STRIDE_I + j[None, :] * STRIDE_J
    tl.store(address, tile.to(pointer.dtype.element_ty), mask=(i < end_i)[:, None] & (j < end_j)[None, :])


# One block-diagonal map. x·weight of a block: I inputs, O outputs; WI and WO are the weight's strides along
# them.


@triton.jit
def linear_kernel(
    x,
    weight,
    bias,
    y,
    M,
    K: tl.constexpr,
    I: tl.constexpr,
    O: tl.constexpr,
    WI: tl.constexpr,
    WO: tl.constexpr,
    BIAS: tl.constexpr,
    BM: tl.constexpr,
    BI: tl.constexpr,
    BO: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tiles: tl.constexpr = (O + BO - 1) // BO
    program = tl.program_id(0)
    k = program // tiles % K
    start = (program // (tiles * K)).to(tl.int64) * BM  # 64 bits here keep every other index in 32
    m, o = tl.arange(0, BM), program % tiles * BO + tl.arange(0, BO)
    x += start * (K * I) + k * I
    total = tl.zeros((BM, BO), tl.float32)
    for step in range(0, I, BI):
        i = step + tl.arange(0, BI)
        total = tl.dot(
            _load(x, m, i, M - start, I, K * I, 1),
            _load(weight + k * O * I, i, o, I, O, WI, WO),
            total,
            input_precision=PRECISION,
        )
    if BIAS:
        total += tl.load(bias + k * O + o, mask=o < O, other=0.0).to(tl.float32)[None, :]
    _store(y + start * (K * O) + k * O, total, m, o, M - start, O, K * O, 1)


@triton.jit
def linear_weight_kernel(
    gradient,
    x,
    dweight,  # (splits, K, Q, P) in fp32
    dbias,  # (splits, K·Q) in fp32
    M,
    steps,
    K: tl.constexpr,
    Q: tl.constexpr,
    P: tl.constexpr,
    BIAS: tl.constexpr,
    BM: tl.constexpr,
    BQ: tl.constexpr,
    BP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tiles: tl.constexpr = (P + BP - 1) // BP
    program, split = tl.program_id(0), tl.program_id(1).to(tl.int64)
    k = program % K
    p = program // K % tiles * BP + tl.arange(0, BP)
    q = program // (K * tiles) * BQ + tl.arange(0, BQ)
    m = tl.arange(0, BM)
    total = tl.zeros((BQ, BP), tl.float32)
    column = tl.zeros((BQ,), tl.float32)
    for step in range(steps):
        start = (split * steps + step) * BM
        g = _load(gradient + start * (K * Q) + k * Q, m, q, M - start, Q, K * Q, 1)
        total = tl.dot(
            tl.trans(g),
            _load(x + start * (K * P) + k * P, m, p, M - start, P, K * P, 1),
            total,
            input_precision=PRECISION,
        )
        if BIAS:
            column += tl.sum(g.to(tl.float32), 0)
    _store(dweight + (split * K + k) * (Q * P), total, q, p, Q, P, P, 1)
    if BIAS and program // K % tiles == 0:
        tl.store(dbias + (split * K + k) * Q + q, column, mask=q < Q)


# The gated unit. Every block of P channels is two tiles: channels a (PA of them) and, unless PB is 0,
# channels b.


@triton.jit
def _gelu(z):
    """GELU and its derivative: z·Phi(z), Phi(z) + z·phi(z)."""
    cdf = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
    return z * cdf, cdf + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)


@triton.jit
def _map_up(xa, xb, up, a, b, h, H: tl.constexpr, P: tl.constexpr, PB: tl.constexpr, PRECISION: tl.constexpr):
    """x·up^T for the hidden channels h: (BM, BH)."""
    y = tl.dot(xa, _load(up, a, h, P, H, 1, P), input_precision=PRECISION)
    if PB:
        y = tl.dot(xb, _load(up, b, h, P, H, 1, P), y, input_precision=PRECISION)
    return y


@triton.jit
def _map_down_back(
    ga, gb, down, a, b, h, H: tl.constexpr, P: tl.constexpr, PB: tl.constexpr, PRECISION: tl.constexpr
):
    """gradient·down for the hidden channels h: (BM, BH)."""
    y = tl.dot(ga, _load(down, a, h, P, H, H, 1), input_precision=PRECISION)
    if PB:
        y = tl.dot(gb, _load(down, b, h, P, H, H, 1), y, input_precision=PRECISION)
    return y


@triton.jit
def glu_kernel(
    x,
    up,
    down,
    bias,
    y,
    M,
    K: tl.constexpr,
    P: tl.constexpr,
    H: tl.constexpr,
    BIAS: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
    PA: tl.constexpr,
    PB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    width: tl.constexpr = K * P
    j = tl.program_id(0) % K
    start = (tl.program_id(0) // K).to(tl.int64) * BM
    end = M - start
    m, a = tl.arange(0, BM), tl.arange(0, PA)
    b = PA + tl.arange(0, PB if PB else 1)
    gate_x, value_x = x + start * width + j // 2 * P, x + start * width + (K // 2 + j // 2) * P
    y += start * width + j * P
    # of the 2K half-blocks of H rows in the map up, half j gives the gate and half K + j the value
    gate_up, value_up, down = up + j * (H * P), up + (K + j) * (H * P), down + j * (P * H)
    gate_xa, value_xa = _load(gate_x, m, a, end, P, width, 1), _load(value_x, m, a, end, P, width, 1)
    gate_xb, value_xb = gate_xa, value_xa
    total_a = tl.zeros((BM, PA), tl.float32)
    if PB:
        gate_xb, value_xb = _load(gate_x, m, b, end, P, width, 1), _load(value_x, m, b, end, P, width, 1)
        total_b = tl.zeros((BM, PB), tl.float32)
    for step in range(0, H, BH):
        h = step + tl.arange(0, BH)
        gate = _map_up(gate_xa, gate_xb, gate_up, a, b, h, H, P, PB, PRECISION)
        value = _map_up(value_xa, value_xb, value_up, a, b, h, H, P, PB, PRECISION)
        active, _ = _gelu(gate)
        hidden = (active * value).to(gate_xa.dtype)
        total_a = tl.dot(hidden, _load(down, h, a, H, P, 1, H), total_a, input_precision=PRECISION)
        if PB:
            total_b = tl.dot(hidden, _load(down, h, b, H, P, 1, H), total_b, input_precision=PRECISION)
    if BIAS:
        total_a += tl.load(bias + j * P + a, mask=a < P, other=0.0).to(tl.float32)[None, :]
    _store(y, total_a, m, a, end, P, width, 1)
    if PB:
        if BIAS:
            total_b += tl.load(bias + j * P + b, mask=b < P, other=0.0).to(tl.float32)[None, :]
        _store(y, total_b, m, b, end, P, width, 1)


@triton.jit
def glu_input_kernel(
    gradient,
    x,
    up,
    down,
    dx,
    M,
    K: tl.constexpr,
    P: tl.constexpr,
    H: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
    PA: tl.constexpr,
    PB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    width: tl.constexpr = K * P
    pair = tl.program_id(0) % (K // 2)
    start = (tl.program_id(0) // (K // 2)).to(tl.int64) * BM
    end = M - start
    m, a = tl.arange(0, BM), tl.arange(0, PA)
    b = PA + tl.arange(0, PB if PB else 1)
    gate_x, value_x = x + start * width + pair * P, x + start * width + (K // 2 + pair) * P
    gate_dx, value_dx = dx + start * width + pair * P, dx + start * width + (K // 2 + pair) * P
    gate_xa, value_xa = _load(gate_x, m, a, end, P, width, 1), _load(value_x, m, a, end, P, width, 1)
    gate_xb, value_xb = gate_xa, value_xa
    gate_total_a, value_total_a = tl.zeros((BM, PA), tl.float32), tl.zeros((BM, PA), tl.float32)
    if PB:
        gate_xb, value_xb = _load(gate_x, m, b, end, P, width, 1), _load(value_x, m, b, end, P, width, 1)
        gate_total_b, value_total_b = tl.zeros((BM, PB), tl.float32), tl.zeros((BM, PB), tl.float32)
    for half in range(2):
        j = pair * 2 + half
        g = gradient + start * width + j * P
        ga = _load(g, m, a, end, P, width, 1)
        gb = ga
        if PB:
            gb = _load(g, m, b, end, P, width, 1)
        gate_up, value_up = up + j * (H * P), up + (K + j) * (H * P)
        for step in range(0, H, BH):
            h = step + tl.arange(0, BH)
            gate = _map_up(gate_xa, gate_xb, gate_up, a, b, h, H, P, PB, PRECISION)
            value = _map_up(value_xa, value_xb, value_up, a, b, h, H, P, PB, PRECISION)
            back = _map_down_back(ga, gb, down + j * (P * H), a, b, h, H, P, PB, PRECISION)
            active, slope = _gelu(gate)
            dgate, dvalue = (back * value * slope).to(ga.dtype), (back * active).to(ga.dtype)
            gate_total_a = tl.dot(
                dgate, _load(gate_up, h, a, H, P, P, 1), gate_total_a, input_precision=PRECISION
            )
            value_total_a = tl.dot(
                dvalue, _load(value_up, h, a, H, P, P, 1), value_total_a, input_precision=PRECISION
            )
            if PB:
                gate_total_b = tl.dot(
                    dgate, _load(gate_up, h, b, H, P, P, 1), gate_total_b, input_precision=PRECISION
                )
                value_total_b = tl.dot(
                    dvalue, _load(value_up, h, b, H, P, P, 1), value_total_b, input_precision=PRECISION
                )
    _store(gate_dx, gate_total_a, m, a, end, P, width, 1)
    _store(value_dx, value_total_a, m, a, end, P, width, 1)
    if PB:
        _store(gate_dx, gate_total_b, m, b, end, P, width, 1)
        _store(value_dx, value_total_b, m, b, end, P, width, 1)


@triton.jit
def glu_weight_kernel(
    gradient,
    x,
    up,
    down,
    dup,  # (splits, K, 2H, P) in fp32
    ddown,  # (splits, K, P, H) in fp32
    M,
    steps,
    K: tl.constexpr,
    P: tl.constexpr,
    H: tl.constexpr,
    BM: tl.constexpr,
    BH: tl.constexpr,
    PA: tl.constexpr,
    PB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    width: tl.constexpr = K * P
    j, tile, split = tl.program_id(0) % K, tl.program_id(0) // K, tl.program_id(1).to(tl.int64)
    m, h, a = tl.arange(0, BM), tile * BH + tl.arange(0, BH), tl.arange(0, PA)
    b = PA + tl.arange(0, PB if PB else 1)
    gate_up, value_up, down = up + j * (H * P), up + (K + j) * (H * P), down + j * (P * H)
    gate_a, value_a, down_a = (
        tl.zeros((PA, BH), tl.float32),
        tl.zeros((PA, BH), tl.float32),
        tl.zeros((PA, BH), tl.float32),
    )
    if PB:
        gate_b, value_b, down_b = (
            tl.zeros((PB, BH), tl.float32),
            tl.zeros((PB, BH), tl.float32),
            tl.zeros((PB, BH), tl.float32),
        )
    for step in range(steps):
        start = (split * steps + step) * BM
        end = M - start
        gate_x, value_x = x + start * width + j // 2 * P, x + start * width + (K // 2 + j // 2) * P
        g = gradient + start * width + j * P
        gate_xa, value_xa, ga = (
            _load(gate_x, m, a, end, P, width, 1),
            _load(value_x, m, a, end, P, width, 1),
            _load(g, m, a, end, P, width, 1),
        )
        gate_xb, value_xb, gb = gate_xa, value_xa, ga
        if PB:
            gate_xb, value_xb, gb = (
                _load(gate_x, m, b, end, P, width, 1),
                _load(value_x, m, b, end, P, width, 1),
                _load(g, m, b, end, P, width, 1),
            )
        gate = _map_up(gate_xa, gate_xb, gate_up, a, b, h, H, P, PB, PRECISION)
        value = _map_up(value_xa, value_xb, value_up, a, b, h, H, P, PB, PRECISION)
        back = _map_down_back(ga, gb, down, a, b, h, H, P, PB, PRECISION)
        active, slope = _gelu(gate)
        dgate = (back * value * slope).to(ga.dtype)
        dvalue = (back * active).to(ga.dtype)
        hidden = (active * value).to(ga.dtype)
        gate_a = tl.dot(tl.trans(gate_xa), dgate, gate_a, input_precision=PRECISION)
        value_a = tl.dot(tl.trans(value_xa), dvalue, value_a, input_precision=PRECISION)
        down_a = tl.dot(tl.trans(ga), hidden, down_a, input_precision=PRECISION)
        if PB:
            gate_b = tl.dot(tl.trans(gate_xb), dgate, gate_b, input_precision=PRECISION)
            value_b = tl.dot(tl.trans(value_xb), dvalue, value_b, input_precision=PRECISION)
            down_b = tl.dot(tl.trans(gb), hidden, down_b, input_precision=PRECISION)
    dup += split * (2 * K * H * P)
    ddown += split * (K * P * H) + j * (P * H)
    _store(dup + j * (H * P), gate_a, a, h, P, H, 1, P)
    _store(dup + (K + j) * (H * P), value_a, a, h, P, H, 1, P)
    _store(ddown, down_a, a, h, P, H, H, 1)
    if PB:
        _store(dup + j * (H * P), gate_b, b, h, P, H, 1, P)
        _store(dup + (K + j) * (H * P), value_b, b, h, P, H, 1, P)
        _store(ddown, down_b, b, h, P, H, H, 1)


# The host's side. Tiles are chosen by what the compilers say fits (cuda/README.md), not by a measured speed.


class Tiles(NamedTuple):
    """Constants of one kernel, and its launch options."""

    constants: dict[str, int]
    num_warps: int
    num_stages: int


def _tile(size: int, largest: int) -> int:
    """A power of two from 16 to ``largest`` that covers ``size`` with little padding.

    A smaller tile has to save some to be taken.
    """
    return min((t for t in (128, 64, 32, 16) if t <= largest), key=lambda t: -(-size // t) * (t + 16))


def _rows(rows: int, largest: int) -> int:
    return min(largest, max(16, triton.next_power_of_2(rows)))


def _two_tiles(p: int) -> tuple[int, int]:
    """PA and PB: one power of two, or two that cover P channels with less padding."""
    single = max(16, triton.next_power_of_2(p))
    half = single // 2
    remainder = max(16, triton.next_power_of_2(max(p - half, 1)))
    return (half, remainder) if half >= 16 and half + remainder < single else (single, 0)


def linear_tiles(rows: int, inputs: int, outputs: int, itemsize: int) -> Tiles:
    wide, deep = (128, 64) if itemsize == 2 else (64, 32)
    bo = _tile(outputs, wide)
    return Tiles({"BM": _rows(rows, wide), "BI": _tile(inputs, deep), "BO": bo}, 8 if bo == 128 else 4, 3)


def linear_weight_tiles(rows: int, q: int, p: int, itemsize: int) -> Tiles:
    wide, deep = (128, 64) if itemsize == 2 else (64, 32)
    bq, bp = _tile(q, wide), _tile(p, wide)
    return Tiles({"BM": _rows(rows, deep), "BQ": bq, "BP": bp}, 8 if bq * bp > 64 * 64 else 4, 3)


def glu_tiles(kind: str, rows: int, p: int, h: int, itemsize: int) -> Tiles:
    """kind: "forward", "input" (gradient of x) or "weight".

    The largest tiles that spill neither on sm_80 nor on sm_90.
    """
    pa, pb = _two_tiles(p)
    if itemsize == 2:
        narrow = pa + pb <= 128
        bm, bh = {
            "forward": (64, 64 if narrow else 32),
            "input": (32, 32),
            "weight": (32, 32 if pa + pb <= 192 else 16),
        }[kind]
    else:
        bm, bh = {"forward": (32, 16), "input": (16, 16), "weight": (16, 16)}[kind]
    return Tiles(
        {"BM": _rows(rows, bm), "BH": _tile(h, bh), "PA": pa, "PB": pb},
        8,
        1 if (kind, itemsize) == ("weight", 4) else 2,
    )


def serves(device_type: str, dtype: torch.dtype, **sizes: Any) -> str | None:
    """None when the kernels take this, else why not.

    Sizes: op="linear", rows, k, q, p; or op="glu", rows, width, ffn_width, k.
    """
    interpreted = not isinstance(linear_kernel, triton.JITFunction)
    if device_type != "cuda" and not interpreted:
        return f"Triton kernels need a CUDA device, not {device_type}"
    if dtype not in DTYPES:
        return f"no kernel for {dtype}, only float32, bfloat16 and float16"
    if interpreted and dtype == torch.bfloat16:
        return "Triton's interpreter multiplies the bit patterns of bfloat16"
    if sizes["op"] == "linear":
        return None
    if sizes["op"] != "glu":
        return f"no kernel for op {sizes['op']!r}, only linear and glu"
    k, width, ffn_width = sizes["k"], sizes["width"], sizes["ffn_width"]
    if k % 2:
        return f"gate and value are cut inside a block when the number of blocks is odd ({k})"
    if width % k or ffn_width % k:
        return f"{k} blocks do not divide width {width} and ffn_width {ffn_width}"
    widest = WIDEST_GLU_BLOCK[dtype.itemsize]
    if width // k > widest:
        return f"a block of {width // k} channels of {dtype} does not fit on chip, at most {widest}"
    return None


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (M, K·P), weight (K, Q, P), bias (K·Q,) -> (M, K·Q)."""
    k, q, p = _linear_sizes(x, weight)
    _check(x.dtype, x=(x, (len(x), k * p)), weight=(weight, (k, q, p)), bias=(bias, (k * q,)))
    return _linear(x, weight, bias, k, p, q, (1, p))


def linear_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, need: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias, those that ``need`` asks for; gradient (M, K·Q)."""
    k, q, p = _linear_sizes(x, weight)
    _check(x.dtype, x=(x, (len(x), k * p)), weight=(weight, (k, q, p)), gradient=(gradient, (len(x), k * q)))
    dx = _linear(gradient, weight, None, k, q, p, (p, 1)) if need[0] else None
    if not need[1]:
        return dx, None, _column_sums(gradient) if need[2] else None
    tiles = linear_weight_tiles(len(x), q, p, x.element_size())
    places = k * triton.cdiv(q, tiles.constants["BQ"]) * triton.cdiv(p, tiles.constants["BP"])
    splits, steps = _split(x, places, tiles.constants["BM"])
    dweight = x.new_empty((splits, k, q, p), dtype=torch.float32)
    dbias = x.new_empty((splits, k * q), dtype=torch.float32) if need[2] else None
    # without a bias its pointer is never followed
    arguments = (gradient, x, dweight, dweight if dbias is None else dbias, len(x), steps)
    _launch(linear_weight_kernel, (places, splits), arguments, tiles, x, K=k, Q=q, P=p, BIAS=need[2])
    return dx, dweight.sum(0).to(x.dtype), None if dbias is None else dbias.sum(0).to(x.dtype)


def glu_forward(x: Tensor, up: Tensor, down: Tensor, bias: Tensor | None) -> Tensor:
    """x (M, D), up (K, 2F/K, D/K), down (K, D/K, F/K), bias (D,) -> (M, D)."""
    k, p, h = _glu_sizes(x, up, down)
    _check(
        x.dtype, x=(x, (len(x), k * p)), up=(up, (k, 2 * h, p)), down=(down, (k, p, h)), bias=(bias, (k * p,))
    )
    y = torch.empty_like(x)
    tiles = glu_tiles("forward", len(x), p, h, x.element_size())
    places = k * triton.cdiv(len(x), tiles.constants["BM"])
    _launch(
        glu_kernel,
        (places,),
        (x, up, down, x if bias is None else bias, y, len(x)),
        tiles,
        x,
        K=k,
        P=p,
        H=h,
        BIAS=bias is not None,
    )
    return y


def glu_backward(
    gradient: Tensor, x: Tensor, up: Tensor, down: Tensor, need: tuple[bool, bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, up, down and bias, those that ``need`` asks for; gradient (M, D).

    One kernel makes both weights' together.
    """
    k, p, h = _glu_sizes(x, up, down)
    _check(
        x.dtype,
        x=(x, (len(x), k * p)),
        up=(up, (k, 2 * h, p)),
        down=(down, (k, p, h)),
        gradient=(gradient, (len(x), k * p)),
    )
    sizes = {"K": k, "P": p, "H": h}
    dx = None
    if need[0]:
        dx = torch.empty_like(x)
        tiles = glu_tiles("input", len(x), p, h, x.element_size())
        places = k // 2 * triton.cdiv(len(x), tiles.constants["BM"])
        _launch(glu_input_kernel, (places,), (gradient, x, up, down, dx, len(x)), tiles, x, **sizes)
    dbias = _column_sums(gradient) if need[3] else None
    if not (need[1] or need[2]):
        return dx, None, None, dbias
    tiles = glu_tiles("weight", len(x), p, h, x.element_size())
    places = k * triton.cdiv(h, tiles.constants["BH"])
    splits, steps = _split(x, places, tiles.constants["BM"])
    partial = [x.new_empty((splits, *shape), dtype=torch.float32) for shape in ((k, 2 * h, p), (k, p, h))]
    _launch(
        glu_weight_kernel,
        (places, splits),
        (gradient, x, up, down, *partial, len(x), steps),
        tiles,
        x,
        **sizes,
    )
    dup, ddown = (
        gradient.sum(0).to(x.dtype) if needed else None
        for gradient, needed in zip(partial, need[1:3], strict=True)
    )
    return dx, dup, ddown, dbias


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: int,
    inputs: int,
    outputs: int,
    strides: tuple[int, int],
) -> Tensor:
    y = x.new_empty((len(x), k * outputs))
    tiles = linear_tiles(len(x), inputs, outputs, x.element_size())
    places = k * triton.cdiv(outputs, tiles.constants["BO"]) * triton.cdiv(len(x), tiles.constants["BM"])
    arguments = (x, weight, x if bias is None else bias, y, len(x))
    sizes = {"K": k, "I": inputs, "O": outputs, "WI": strides[0], "WO": strides[1]}
    _launch(linear_kernel, (places,), arguments, tiles, x, **sizes, BIAS=bias is not None)
    return y


def _launch(
    kernel: Any, grid: tuple[int, ...], arguments: Sequence[Any], tiles: Tiles, x: Tensor, **constants: int
) -> None:
    # three tf32 products for each fp32 one spill in this kernel, plain fp32 ones do not
    how = precision(x.dtype, "ieee" if kernel is glu_weight_kernel else "tf32x3")
    with torch.cuda.device_of(x):  # Triton starts kernels on the current device
        kernel[grid](
            *arguments,
            **constants,
            **tiles.constants,
            PRECISION=how,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )


def precision(dtype: torch.dtype, accurate: str = "tf32x3") -> str:
    """How fp32 operands are multiplied; 16-bit ones are what they are."""
    # read by the newer name: the older one, allow_tf32, sets this and raises once this was set
    return (
        accurate if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32" else "tf32"
    )


def _split(x: Tensor, places: int, bm: int) -> tuple[int, int]:
    """The number of row ranges, and of row tiles in each.

    Two programs per multiprocessor, 4 tiles a range or more.
    """
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 4
    row_tiles = triton.cdiv(len(x), bm)
    steps = max(4, triton.cdiv(row_tiles, max(1, 2 * processors // places)))
    return max(1, triton.cdiv(row_tiles, steps)), steps


def _column_sums(gradient: Tensor) -> Tensor:
    return gradient.sum(0, dtype=torch.float32).to(gradient.dtype)


def _linear_sizes(x: Tensor, weight: Tensor) -> tuple[int, int, int]:
    k, q, p = weight.shape
    _refuse(serves(x.device.type, x.dtype, op="linear", rows=len(x), k=k, q=q, p=p))
    return k, q, p


def _glu_sizes(x: Tensor, up: Tensor, down: Tensor) -> tuple[int, int, int]:
    k, p, h = down.shape
    _refuse(serves(x.device.type, x.dtype, op="glu", rows=len(x), width=k * p, ffn_width=k * h, k=k))
    return k, p, h


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise ValueError(f"block-diagonal kernel: {reason}")


def _check(dtype: torch.dtype, **tensors: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Raises: ValueError for a tensor of another shape or dtype, or one whose memory is not contiguous: the
    kernels take raw pointers.
    """
    for name, (tensor, shape) in tensors.items():
        if tensor is None:
            continue
        if tensor.shape != shape or tensor.dtype != dtype:
            _refuse(f"{name} must be {shape} of {dtype}, got {tuple(tensor.shape)} of {tensor.dtype}")
        if not tensor.is_contiguous():
            _refuse(f"{name} is not contiguous; pass {name}.contiguous()")
