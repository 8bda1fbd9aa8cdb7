"""Gated causal long convolution.

Short convolution, both gates and a block-Toeplitz product, forward and backward.

Not measured on a GPU. Computes y = gate_out · causal(kernel, gate_in · value), with (gate_in, gate_out,
value) = short(z), and its gradients.
Legend: D channels, B batch, T tokens, S taps of the kernel, W taps of the short convolution; u = gate_in ·
value, c = causal(kernel, u), g gradient of y, h = g · gate_out. Channel-major, time contiguous.
Tiling: time is cut into chunks of M tokens; the N columns of a product are chunks times sequences of one
channel. A program owns M x N outputs and walks over the blocks of K tokens that its chunks depend on: c =
sum_j T_j u_j with T_j[r, s] = kernel[r - s + const], zero at negative lags. Its rows are windows of the
kernel one lag apart, so 16 bytes' worth of shifted copies of the kernel make every row start aligned, and T_j
arrives like any matrix. The transposed product (gradient of u) is the same walk forwards in time. Gradient of
the kernel: per lag block m, P_m = sum over columns of h_i u_(i-m)ᵀ in C x C, then the sums along its
diagonals.
Launches: forward gates and product, the second gate behind it; backward gates, P, two products, and one pass
down through gates and short convolution. u and h live for one call; nothing but the arguments is kept between
forward and backward. No atomics: partial sums are written apart and added in one order, so the same bits
every time.
Causality: the future meets exact zeros only and padding is masked, not multiplied; no bit of the past moves,
in any precision, forward or gradient (of finite numbers: zero times infinity is NaN).
Precision: gates, short convolution and sums in float32; operands of products in z's type, float32 ones as
IEEE products unless torch.backends.cuda.matmul.allow_tf32 asks for tf32.
Roof (derived): 8 B per token and channel forward in 16 bits, of which these launches move 12; backward 14,
moved 42. Work: T FLOPs per token and channel forward, 3·T backward, so beyond T of about 2000 (16-bit)
arithmetic decides, and grows as T². Kernels beyond ``LONGEST`` go through transforms instead
(monarch_conv_triton.py), which are causal to float32 rounding only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
import triton
import triton.language as tl
from torch import Tensor

triton_kernels: Callable[[str], ModuleType] | None = (
    None  # gives the module of another kernel file; its loader sets it
)

POINTS = 1024  # tokens of one program in the passes without products
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_SHORT_TAPS = 16  # unrolled
# Longest kernel by block-Toeplitz. Derived, replace by a measurement: T FLOPs at half of 60, 395 or 790
# TFLOP/s meet the transforms' 32·sqrt(T) at half of 60 and 72 B at 4.3 TB/s near 1900, 50 000 and 190 000;
# here as powers of two
LONGEST = {"ieee": 2048, "tf32": 32768, "16-bit": 131072}
ENOUGH_PROGRAMS = (
    512  # below this the kernel gradient splits its columns, to fill a GPU of 132 multiprocessors
)


@triton.jit
def _short(z, weight, bias, channel, position, t, tokens, mask, shift: tl.constexpr, TAPS: tl.constexpr):
    """Short convolution of one channel at times t + shift, in float32; ``position``: t within the channel."""
    total = tl.zeros(t.shape, tl.float32) + tl.load(bias + channel).to(tl.float32)
    for i in tl.static_range(TAPS):
        total += tl.load(weight + channel * TAPS + i).to(tl.float32) * _token(
            z, position, t, tokens, mask, shift + i - (TAPS - 1)
        )
    return total


@triton.jit
def _token(x, position, t, tokens, mask, shift: tl.constexpr):
    """x at times t + shift, zero outside the sequence.

    One spelling for all uses: equal loads are then merged.
    """
    return tl.load(x + position + shift, mask=mask & (t + shift >= 0) & (t + shift < tokens), other=0).to(
        tl.float32
    )


@triton.jit
def gates_kernel(z, weight, bias, gradient, u, h, channels, tokens, points, TAPS: tl.constexpr,
                 U: tl.constexpr, H: tl.constexpr, POINTS: tl.constexpr):  # fmt: skip
    """u = gate_in · value when U, and h = gradient · gate_out when H (h may be gradient itself)."""
    d, stream = tl.program_id(1).to(tl.int64), tl.cast(points, tl.int64)
    position = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    mask, t = position < points, position % tokens
    if U:
        gate_in = _short(z + d * stream, weight, bias, d, position, t, tokens, mask, 0, TAPS)
        last = 2 * channels + d
        value = _short(z + last * stream, weight, bias, last, position, t, tokens, mask, 0, TAPS)
        tl.store(u + d * stream + position, (gate_in * value).to(u.dtype.element_ty), mask=mask)
    if H:
        middle = channels + d
        gate_out = _short(z + middle * stream, weight, bias, middle, position, t, tokens, mask, 0, TAPS)
        g = tl.load(gradient + d * stream + position, mask=mask, other=0).to(tl.float32)
        tl.store(h + d * stream + position, (g * gate_out).to(h.dtype.element_ty), mask=mask)


@triton.jit
def copies_kernel(
    kernel,
    copies,
    origin,
    length,
    taps,
    kernel_stride,
    FLIP: tl.constexpr,
    COPIES: tl.constexpr,
    POINTS: tl.constexpr,
):
    """copies[p, i] = kernel[i - p - origin], or kernel[origin - i + p] when FLIP; zero outside the taps."""
    d = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    for p in tl.static_range(COPIES):
        lag = i - p - origin
        if FLIP:
            lag = -lag
        tap = tl.load(kernel + d * kernel_stride + lag, mask=(lag >= 0) & (lag < taps), other=0)
        tl.store(copies + (d * COPIES + p) * length + i, tap.to(copies.dtype.element_ty), mask=i < length)


@triton.jit
def toeplitz_kernel(x, copies, z, weight, bias, out, channels, batch, tokens, taps, origin, length,
                    TAPS: tl.constexpr, GATE: tl.constexpr, TRANSPOSED: tl.constexpr, COPIES: tl.constexpr,
                    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """out[t] = sum_lag kernel[lag] x[t - lag], or x[t + lag] when TRANSPOSED.

    Times the after gate when GATE. taps <= tokens.
    """
    d, stream = tl.program_id(1).to(tl.int64), tl.cast(batch, tl.int64) * tokens
    chunks = tl.cdiv(tokens, M)
    tile = tl.program_id(0)
    if not TRANSPOSED:  # the programs with most work start first
        tile = tl.num_programs(0) - 1 - tile
    column = tile * N + tl.arange(0, N)
    valid = column < chunks * batch
    start, row = (column // batch) * M, (column % batch) * tokens
    r, s = tl.arange(0, M), tl.arange(0, K)
    # blocks of x from the output's own chunk away from it: forwards in time when transposed, else backwards
    if TRANSPOSED:
        reach = tokens - ((tile * N) // batch) * M
        nearest = 0
        step = K
    else:
        reach = tl.minimum((tile * N + N - 1) // batch, chunks - 1) * M + M
        nearest = M - K
        step = -K
    line = (
        copies
        + d * COPIES * length
        + (origin + nearest - (r // COPIES) * COPIES + (r % COPIES) * length)[:, None]
        + s[None, :]
    )
    total = tl.zeros((M, N), tl.float32)
    for j in range(tl.minimum(tl.cdiv(reach, K), tl.cdiv(taps + M - 1, K))):
        t = start[None, :] + (nearest + j * step + s)[:, None]
        signal = tl.load(
            x + d * stream + (row[None, :] + t), mask=valid[None, :] & (t >= 0) & (t < tokens), other=0
        )
        total = tl.dot(tl.load(line + j * step), signal, total, input_precision=PRECISION)
    if GATE:  # by halves of the columns: the gate of a whole tile does not fit the registers beside it
        left, right = tl.split(tl.permute(tl.reshape(total, (M, 2, N // 2)), (0, 2, 1)))
        half = tl.arange(0, N // 2)
        middle = channels + d
        _gated_store(
            left, tile * N + half, z, weight, bias, middle, out + d * stream, batch, tokens, chunks, M, TAPS
        )
        _gated_store(
            right,
            tile * N + N // 2 + half,
            z,
            weight,
            bias,
            middle,
            out + d * stream,
            batch,
            tokens,
            chunks,
            M,
            TAPS,
        )
    else:
        t = start[None, :] + r[:, None]
        tl.store(
            out + d * stream + (row[None, :] + t),
            total.to(out.dtype.element_ty),
            mask=valid[None, :] & (t < tokens),
        )


@triton.jit
def _gated_store(
    c, column, z, weight, bias, channel, out, batch, tokens, chunks, M: tl.constexpr, TAPS: tl.constexpr
):
    """c (M, columns) times the gate of its tokens."""
    t = ((column // batch) * M)[None, :] + tl.arange(0, M)[:, None]
    position, mask = (
        ((column % batch) * tokens)[None, :] + t,
        (column < chunks * batch)[None, :] & (t < tokens),
    )
    stream = tl.cast(batch, tl.int64) * tokens
    gate = _short(z + channel * stream, weight, bias, channel, position, t, tokens, mask, 0, TAPS)
    tl.store(out + position, (c * gate).to(out.dtype.element_ty), mask=mask)


@triton.jit
def correlation_kernel(
    u,
    h,
    partial,
    batch,
    tokens,
    lags,
    C: tl.constexpr,
    K: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Lag block m of sum_t h[t] u[t - lag].

    Diagonal sums of P_m, those of lags m·C + l and those of (m - 1)·C + l apart.
    """
    d, stream = tl.program_id(2).to(tl.int64), tl.cast(batch, tl.int64) * tokens
    m, split = tl.program_id(0), tl.program_id(1)
    columns = (tl.cdiv(tokens, C) - m) * batch
    r, q = tl.arange(0, C), tl.arange(0, K)
    total = tl.zeros((C, C), tl.float32)
    for step in range(split, tl.cdiv(columns, K), SPLITS):
        column = step * K + q
        valid = column < columns
        row, start = (column % batch) * tokens, (column // batch) * C
        late = start[None, :] + m * C + r[:, None]
        left = tl.load(h + d * stream + (row[None, :] + late), mask=valid[None, :] & (late < tokens), other=0)
        early = start[:, None] + r[None, :]
        right = tl.load(
            u + d * stream + (row[:, None] + early), mask=valid[:, None] & (early < tokens), other=0
        )
        total = tl.dot(left, right, total, input_precision=PRECISION)
    # row r moves left by s - r (mod C): column l of the result holds the products of lag l, and of lag l - C
    # where l > r
    skewed = tl.gather(total, (r[:, None] + C - r[None, :]) % C, axis=1)
    same_lag = r[:, None] >= r[None, :]
    to = partial + ((split * tl.num_programs(2) + d) * 2 * lags + m) * C + r
    tl.store(to, tl.sum(tl.where(same_lag, skewed, 0.0), axis=0))
    tl.store(to + lags * C, tl.sum(tl.where(same_lag, 0.0, skewed), axis=0))


@triton.jit
def ungate_kernel(gradient, c, du, z, weight, bias, dz, partial, channels, tokens, points, TAPS: tl.constexpr,
                  DZ: tl.constexpr, SUMS: tl.constexpr, POINTS: tl.constexpr):  # fmt: skip
    """Down through the gates and the short convolution.

    dz, and this tile's share of the short weights' and biases' gradients.
    """
    d, stream = tl.program_id(1).to(tl.int64), tl.cast(points, tl.int64)
    position = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    mask, t = position < points, position % tokens
    last = 2 * channels + d
    for stream_index in tl.static_range(3):
        channel = stream_index * channels + d
        signal = z + channel * stream
        total = tl.zeros((POINTS,), tl.float32)
        for shift in tl.static_range(TAPS):
            if stream_index == 1:
                grad = _token(gradient + d * stream, position, t, tokens, mask, shift) * _token(
                    c + d * stream, position, t, tokens, mask, shift
                )
            else:
                other = last if stream_index == 0 else d
                gate = _short(z + other * stream, weight, bias, other, position, t, tokens, mask, shift, TAPS)
                grad = _token(du + d * stream, position, t, tokens, mask, shift) * gate
            if DZ:
                total += tl.load(weight + channel * TAPS + (TAPS - 1 - shift)).to(tl.float32) * grad
            if SUMS and shift == 0:
                to = partial + (channel * tl.num_programs(0) + tl.program_id(0)) * (TAPS + 1)
                for i in tl.static_range(TAPS):
                    tl.store(
                        to + i,
                        tl.sum(grad * _token(signal, position, t, tokens, mask, i - (TAPS - 1)), axis=0),
                    )
                tl.store(to + TAPS, tl.sum(grad, axis=0))
        if DZ:
            tl.store(dz + channel * stream + position, total.to(dz.dtype.element_ty), mask=mask)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """The tile of one program: M tokens of N columns in steps of K.

    Lag blocks of C in the kernel gradient.
    """

    M: int
    N: int
    K: int
    C: int
    warps: int
    stages: int = 3


def tiles(dtype: torch.dtype, *, batch: int, tokens: int) -> Tiles:
    """As large as registers allow, since a larger tile reads less for its products.

    No wider than there are columns.
    """
    narrow = dtype != torch.float32
    m = 128 if narrow and tokens > 64 else 64
    # rows that start anywhere are read two bytes at a time, and their addresses take the registers of half a
    # tile
    widest = m if tokens % 16 == 0 else 64
    n = min(max(16, triton.next_power_of_2(batch * triton.cdiv(tokens, m))), widest)
    if not narrow and n == 32:
        n = 16  # at 32 the compiler spills rather than take more than 128 registers (sm_80, odd lengths)
    return Tiles(M=m, N=n, K=64 if narrow else 32, C=m, warps=8 if m * n >= 128 * 64 else 4)


def serves(
    device_type: str,
    dtype: torch.dtype,
    *,
    op: str = "gated",
    channels: int,
    batch: int,
    tokens: int,
    taps: int,
    short_taps: int,
) -> str | None:
    """Why these kernels cannot compute ``op`` for this shape, in one clause; None when they can."""
    if op != "gated":
        return f"the causal convolution kernels compute 'gated', not {op!r}"
    if device_type != "cuda" and not triton.knobs.runtime.interpret:
        return f"the causal convolution kernels need a CUDA device, not {device_type!r}"
    if dtype not in DTYPES:
        return f"the causal convolution kernels compute in float32, bfloat16 or float16, not {dtype}"
    if min(channels, batch, tokens, taps, short_taps) < 1:
        return "the causal convolution kernels need at least one channel, sequence, token and tap"
    if short_taps > MAX_SHORT_TAPS:
        return f"the causal convolution kernels unroll at most {MAX_SHORT_TAPS} short taps, not {short_taps}"
    if channels > 65535:
        return f"the causal convolution kernels take at most 65535 channels, not {channels}"
    if batch * tokens >= 2**31 - 2**16:
        return (
            "the causal convolution kernels count positions of a channel in 32 bits, "
            f"{batch} x {tokens} are too many"
        )
    return None


def algorithm(dtype: torch.dtype, *, tokens: int, taps: int) -> str:
    """ "toeplitz", exactly causal, or "monarch", causal to float32 rounding, for long kernels."""
    return (
        "toeplitz"
        if min(tokens, taps) <= LONGEST[_precision() if dtype == torch.float32 else "16-bit"]
        else "monarch"
    )


def gated_forward(z: Tensor, short_weight: Tensor, short_bias: Tensor, kernel: Tensor) -> Tensor:
    """y (D, B, T) of z (3D, B, T), short_weight (3D, W), short_bias (3D,), kernel (D, S).

    Contiguous, on one device.
    """
    short = (z, short_weight, short_bias)
    if algorithm(z.dtype, tokens=z.shape[-1], taps=kernel.shape[1]) == "toeplitz":
        return _toeplitz(_gate_in(*short), kernel, short)
    c = _monarch().convolve(_gate_in(*short, dtype=torch.float32), kernel)
    return _gate_out(*short, c, dtype=z.dtype)


def gated_backward(
    gradient: Tensor,
    z: Tensor,
    short_weight: Tensor,
    short_bias: Tensor,
    kernel: Tensor,
    need: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of z, short_weight, short_bias and kernel, as far as ``need`` asks."""
    short, through, of_sums = (z, short_weight, short_bias), any(need[:3]), need[1] or need[2]
    if algorithm(z.dtype, tokens=z.shape[-1], taps=kernel.shape[1]) == "toeplitz":
        u, h = _gate_in(*short), _gate_out(*short, gradient, dtype=z.dtype)
        dkernel = _correlation(u, h, kernel) if need[3] else None
        if not through:
            return None, None, None, dkernel
        c = _toeplitz(u, kernel)
        du = _toeplitz(h, kernel, transposed=True, out=u)  # u was read for the last time
        del h
    else:
        c, du = _gate_in(*short, dtype=torch.float32), _gate_out(*short, gradient, dtype=torch.float32)
        dkernel = _monarch().backward(c, du, kernel, signals=through, taps=need[3])
        if not through:
            return None, None, None, dkernel
    (triple, batch, tokens), short_taps = z.shape, short_weight.shape[1]
    channels, points = triple // 3, batch * tokens
    programs = triton.cdiv(points, POINTS)
    dz = torch.empty_like(z) if need[0] else None
    partial = z.new_empty((triple, programs, short_taps + 1), dtype=torch.float32) if of_sums else None
    ungate_kernel[(programs, channels)](
        gradient, c, du, z, short_weight, short_bias,
        z if dz is None else dz, z if partial is None else partial, channels, tokens, points,
        TAPS=short_taps, DZ=need[0], SUMS=of_sums, POINTS=POINTS,
    )  # fmt: skip
    sums = None if partial is None else partial.sum(1)
    dweight = sums[:, :-1].to(short_weight.dtype).contiguous() if sums is not None and need[1] else None
    dbias = sums[:, -1].to(short_bias.dtype).contiguous() if sums is not None and need[2] else None
    return dz, dweight, dbias, dkernel


def _precision() -> str:
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _monarch() -> ModuleType:
    assert triton_kernels is not None
    return triton_kernels("monarch_conv")  # loaded late: only long sequences need it


def _gate_in(z: Tensor, weight: Tensor, bias: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """u = gate_in · value, in z's type unless ``dtype`` is given."""
    channels, batch, tokens = z.shape[0] // 3, *z.shape[1:]
    u = z.new_empty((channels, batch, tokens), dtype=dtype)
    gates_kernel[(triton.cdiv(batch * tokens, POINTS), channels)](
        z,
        weight,
        bias,
        z,
        u,
        z,
        channels,
        tokens,
        batch * tokens,
        TAPS=weight.shape[1],
        U=True,
        H=False,
        POINTS=POINTS,
    )
    return u


def _gate_out(z: Tensor, weight: Tensor, bias: Tensor, x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """x · after."""
    channels, batch, tokens = x.shape
    h = torch.empty_like(x, dtype=dtype)
    gates_kernel[(triton.cdiv(batch * tokens, POINTS), channels)](
        z,
        weight,
        bias,
        x,
        z,
        h,
        channels,
        tokens,
        batch * tokens,
        TAPS=weight.shape[1],
        U=False,
        H=True,
        POINTS=POINTS,
    )
    return h


def _toeplitz(
    x: Tensor,
    kernel: Tensor,
    short: tuple[Tensor, Tensor, Tensor] | None = None,
    *,
    transposed: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """The (transposed) product with x, gated when ``short`` holds z, weight and bias.

    Into ``out``, which must not be x.
    """
    channels, batch, tokens = x.shape
    out = torch.empty_like(x) if out is None else out
    z, weight, bias = (x, x, x) if short is None else short
    t, taps, copies = (
        tiles(x.dtype, batch=batch, tokens=tokens),
        min(kernel.shape[1], tokens),
        16 // x.element_size(),
    )
    # where lag 0 stands: lags from -(M - 1) to reach - 1 are read, one way or the other
    reach = triton.cdiv(taps + t.M - 1, t.K) * t.K
    origin, length = t.M if transposed else reach, reach + t.M + 16
    shifted = x.new_empty((channels, copies, length))
    copies_kernel[(triton.cdiv(length, POINTS), channels)](
        kernel,
        shifted,
        origin,
        length,
        taps,
        kernel.shape[1],
        FLIP=not transposed,
        COPIES=copies,
        POINTS=POINTS,
    )
    toeplitz_kernel[(triton.cdiv(batch * triton.cdiv(tokens, t.M), t.N), channels)](
        x, shifted, z, weight, bias, out, channels, batch, tokens, taps, origin, length,
        TAPS=weight.shape[-1] if short else 1, GATE=short is not None, TRANSPOSED=transposed,
        COPIES=copies, M=t.M, N=t.N, K=t.K,
        PRECISION=_precision(), num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
    return out


def _correlation(u: Tensor, h: Tensor, kernel: Tensor) -> Tensor:
    """sum over batch and time of h[t] u[t - lag] for every tap, in kernel's shape and type."""
    channels, batch, tokens = u.shape
    t, taps = tiles(u.dtype, batch=batch, tokens=tokens), min(kernel.shape[1], tokens)
    chunks = triton.cdiv(tokens, t.C)
    lags = min(chunks, (taps + t.C - 2) // t.C + 1)
    splits = max(1, min(ENOUGH_PROGRAMS // (lags * channels), triton.cdiv(chunks * batch, t.K)))
    partial = u.new_empty((splits, channels, 2, lags * t.C), dtype=torch.float32)
    correlation_kernel[(lags, splits, channels)](
        u, h, partial, batch, tokens, lags,
        C=t.C, K=t.K, SPLITS=splits, PRECISION=_precision(), num_warps=t.C // 16, num_stages=t.stages,
    )  # fmt: skip
    lag_sums, wrapped_sums = partial.sum(0).unbind(1)
    lag_sums[:, : -t.C] += wrapped_sums[:, t.C :]
    dkernel = kernel.new_zeros(kernel.shape)
    dkernel[:, :taps] = lag_sums[:, :taps]
    return dkernel
