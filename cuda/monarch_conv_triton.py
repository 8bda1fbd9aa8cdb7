"""Causal convolution of long sequences by an order-2 Monarch transform in float32. Not measured on a GPU.

Computes y[t] = sum_s kernel[s] u[t - s] along the last axis and, for a gradient h of y, the gradients of u
and kernel. It serves ``causal_conv_triton``, whose gates and short convolution stand around it.
Legend: D channels, B batch, T tokens, S taps, p pairs of sequences, N = n1·n2 >= 2T transform length. A
signal is an (n1, n2) matrix, x[i1, i2] at time i1·n2 + i2: a DFT down the columns, a twiddle exp(-2 pi i k1
i2/N), a DFT along the rows; the spectrum stays in the order in which it lands (k1, k2), so nothing is
transposed (blocks.convolution.monarch_fft is the same in torch).
Two sequences of a channel are real and imaginary part of one signal: the kernel is real, so their outputs
come apart by themselves. Rows of padding are never multiplied, rows beyond T never computed.
Tiling: a complex product is one real product with a table [[C, S], [-S, C]], planes beside each other; so
every pass is one product in tiles of 64 x 64 (32 points, both planes) and steps of STEP. Passes through
device memory: columns with the twiddle; rows; product of spectra; inverse rows with the twiddle; inverse
columns. Channels go in groups of at most GROUP points: scratch does not grow with D or B.
Precision: float32 with IEEE products, never tf32: a transform carries its rounding noise from the future to
the past, 4e-7 of the signal in float32, 5e-3 in bfloat16. So this path is causal to rounding, where the
Toeplitz one is exact.
Roof (derived): 8·n1 + 16·n2 FLOPs per token and channel on the float32 units, 2048 at T = 4096 where
block-Toeplitz takes 4096; 72 B of traffic. Arithmetic decides: at 60 TFLOP/s, 34 ps at T = 4096.
"""

from __future__ import annotations

from functools import lru_cache
from math import isqrt, pi

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP = 2**23  # complex points of one scratch array: 64 MiB
TILE, STEP, WARPS = 64, 32, 4
POINTS = 1024


@triton.jit
def _planes(start, size, HALF: tl.constexpr):
    """For 2·HALF rows of a tile, HALF of each plane.

    The index within the plane, the index in a table of both, and which are real ones.
    """
    row = tl.arange(0, 2 * HALF)
    inner = start + row % HALF
    return inner, (row // HALF) * size + inner, inner < size


@triton.jit
def columns_kernel(
    x, out, table, twiddle, batch, pairs, tokens, n1, n2, TILE: tl.constexpr, STEP: tl.constexpr
):
    """Real pairs (D, B, T) -> twiddled DFT of the columns, planes (D·p, 2, n1, n2)."""
    row = tl.program_id(2).to(tl.int64)
    points = tl.cast(n1, tl.int64) * n2
    HALF: tl.constexpr = TILE // 2
    _, left, real = _planes(tl.program_id(0) * HALF, n1, HALF)
    i2 = tl.program_id(1) * TILE + tl.arange(0, TILE)
    sequence = 2 * (row % pairs)
    steps = tl.cdiv(tl.cdiv(tokens, n2), STEP)
    total = tl.zeros((TILE, TILE), tl.float32)
    for j in range(2 * steps):
        plane = j // steps
        i1 = (j % steps) * STEP + tl.arange(0, STEP)
        a = tl.load(
            table + left[:, None] * 2 * n1 + (plane * n1 + i1)[None, :],
            mask=real[:, None] & (i1[None, :] < n1),
            other=0,
        )
        t = i1[:, None] * n2 + i2[None, :]
        in_sequence = (i2[None, :] < n2) & (t < tokens) & (sequence + plane < batch)
        b = tl.load(x + ((row // pairs) * batch + sequence + plane) * tokens + t, mask=in_sequence, other=0)
        total = tl.dot(a, b, total, input_precision="ieee")
    re, im = tl.split(tl.permute(tl.reshape(total, (2, HALF, TILE)), (1, 2, 0)))
    k1 = tl.program_id(0) * HALF + tl.arange(0, HALF)
    point, mask = k1[:, None] * n2 + i2[None, :], (k1[:, None] < n1) & (i2[None, :] < n2)
    cos, sin = (
        tl.load(twiddle + point, mask=mask, other=0),
        tl.load(twiddle + points + point, mask=mask, other=0),
    )
    tl.store(out + 2 * row * points + point, re * cos - im * sin, mask=mask)
    tl.store(out + (2 * row + 1) * points + point, re * sin + im * cos, mask=mask)


@triton.jit
def rows_kernel(
    x, out, table, twiddle, n1, n2, INVERSE: tl.constexpr, TILE: tl.constexpr, STEP: tl.constexpr
):
    """Planes (D·p, 2, n1, n2) through the DFT of the rows.

    INVERSE: through the inverse one, then twiddled back.

    STEP divides n2.
    """
    row = tl.program_id(2).to(tl.int64)
    points = tl.cast(n1, tl.int64) * n2
    HALF: tl.constexpr = TILE // 2
    _, right, real = _planes(tl.program_id(1) * HALF, n2, HALF)
    k1 = tl.program_id(0) * TILE + tl.arange(0, TILE)
    steps = n2 // STEP
    total = tl.zeros((TILE, TILE), tl.float32)
    for j in range(2 * steps):
        plane = j // steps
        i2 = (j % steps) * STEP + tl.arange(0, STEP)
        a = tl.load(
            x + (2 * row + plane) * points + k1[:, None] * n2 + i2[None, :], mask=k1[:, None] < n1, other=0
        )
        b = tl.load(table + (plane * n2 + i2)[:, None] * 2 * n2 + right[None, :], mask=real[None, :], other=0)
        total = tl.dot(a, b, total, input_precision="ieee")
    re, im = tl.split(tl.permute(tl.reshape(total, (TILE, 2, HALF)), (0, 2, 1)))
    k2 = tl.program_id(1) * HALF + tl.arange(0, HALF)
    point, mask = k1[:, None] * n2 + k2[None, :], (k1[:, None] < n1) & (k2[None, :] < n2)
    if INVERSE:
        cos, sin = (
            tl.load(twiddle + point, mask=mask, other=0),
            tl.load(twiddle + points + point, mask=mask, other=0),
        )
        re, im = re * cos + im * sin, im * cos - re * sin
    tl.store(out + 2 * row * points + point, re, mask=mask)
    tl.store(out + (2 * row + 1) * points + point, im, mask=mask)


@triton.jit
def inverse_columns_kernel(
    x, out, table, batch, pairs, tokens, n1, n2, TILE: tl.constexpr, STEP: tl.constexpr
):
    """Planes (D·p, 2, n1, n2) -> the first ``tokens`` of the real pairs (D, B, T), scaled by 1/N."""
    row = tl.program_id(2).to(tl.int64)
    points = tl.cast(n1, tl.int64) * n2
    HALF: tl.constexpr = TILE // 2
    i1, left, real = _planes(tl.program_id(0) * HALF, n1, HALF)
    i2 = tl.program_id(1) * TILE + tl.arange(0, TILE)
    steps = tl.cdiv(n1, STEP)
    total = tl.zeros((TILE, TILE), tl.float32)
    for j in range(2 * steps):
        plane = j // steps
        k1 = (j % steps) * STEP + tl.arange(0, STEP)
        a = tl.load(
            table + left[:, None] * 2 * n1 + (plane * n1 + k1)[None, :],
            mask=real[:, None] & (k1[None, :] < n1),
            other=0,
        )
        point, mask = k1[:, None] * n2 + i2[None, :], (k1[:, None] < n1) & (i2[None, :] < n2)
        b = tl.load(x + (2 * row + plane) * points + point, mask=mask, other=0)
        total = tl.dot(a, b, total, input_precision="ieee")
    t = i1[:, None] * n2 + i2[None, :]
    sequence = 2 * (row % pairs) + tl.arange(0, TILE) // HALF
    in_sequence = real[:, None] & (i2[None, :] < n2) & (t < tokens) & (sequence < batch)[:, None]
    to = out + (((row // pairs) * batch + sequence) * tokens)[:, None] + t
    tl.store(to, total * (1.0 / (n1 * n2)), mask=in_sequence)


@triton.jit
def product_kernel(x, spectrum, pairs, points, CONJUGATE: tl.constexpr, POINTS: tl.constexpr):
    """x (D·p, 2, N) times the spectrum (D, 2, N) of its channel, or its conjugate, in place."""
    row = tl.program_id(1).to(tl.int64)
    point = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    mask = point < points
    to, of_channel = x + 2 * row * points + point, spectrum + 2 * (row // pairs) * points + point
    a, b = tl.load(to, mask=mask), tl.load(to + points, mask=mask)
    c, d = tl.load(of_channel, mask=mask), tl.load(of_channel + points, mask=mask)
    if CONJUGATE:
        d = -d
    tl.store(to, a * c - b * d, mask=mask)
    tl.store(to + points, a * d + b * c, mask=mask)


@triton.jit
def cross_kernel(u, h, out, pairs, points, POINTS: tl.constexpr):
    """Sum over a channel's pairs of conj(u)·h.

    The real part of its inverse is the sum of both sequences' correlations.
    """
    channel = tl.program_id(1).to(tl.int64)
    point = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    mask = point < points
    re, im = tl.zeros((POINTS,), tl.float32), tl.zeros((POINTS,), tl.float32)
    for pair in range(pairs):
        to = 2 * (channel * pairs + pair) * points + point
        a, b = tl.load(u + to, mask=mask, other=0), tl.load(u + to + points, mask=mask, other=0)
        c, d = tl.load(h + to, mask=mask, other=0), tl.load(h + to + points, mask=mask, other=0)
        re, im = re + a * c + b * d, im + a * d - b * c
    tl.store(out + 2 * channel * points + point, re, mask=mask)
    tl.store(out + (2 * channel + 1) * points + point, im, mask=mask)


class Transform:
    """Tables and passes for signals of ``tokens`` tokens on one device."""

    def __init__(self, tokens: int, device: torch.device) -> None:
        # the first digit costs half of the second; powers of two fill the tiles of the rows, and the columns
        # take what is left
        self.tokens, self.n2 = tokens, max(STEP, triton.next_power_of_2(isqrt(tokens)))
        self.n1 = triton.cdiv(2 * tokens, self.n2)
        self.points = self.n1 * self.n2
        self.columns, self.rows = _rotations(self.n1).to(device), _rotations(self.n2).to(device)
        self.columns_back, self.rows_back = self.columns.mT.contiguous(), self.rows.mT.contiguous()
        self.twiddle = torch.stack(_waves(self.n1, self.n2, self.points)).float().to(device)

    def forward(self, x: Tensor) -> Tensor:
        """float32 (D, B, T) -> planes (D, p, 2, N) of the permuted spectrum."""
        channels, batch, tokens = x.shape
        pairs = triton.cdiv(batch, 2)
        scratch, out = (x.new_empty((channels, pairs, 2, self.points)) for _ in range(2))
        columns_kernel[(triton.cdiv(2 * self.n1, TILE), triton.cdiv(self.n2, TILE), channels * pairs)](
            x,
            scratch,
            self.columns_back,
            self.twiddle,
            batch,
            pairs,
            tokens,
            self.n1,
            self.n2,
            TILE=TILE,
            STEP=STEP,
            num_warps=WARPS,
        )
        self._rows(scratch, out, self.rows, inverse=False)
        return out

    def inverse(self, x: Tensor, out: Tensor) -> None:
        """out (D, B, T): the first T of the inverse of x (D, p, 2, N)."""
        channels, batch, tokens = out.shape
        scratch = torch.empty_like(x)
        self._rows(x, scratch, self.rows_back, inverse=True)
        used = triton.cdiv(tokens, self.n2)
        inverse_columns_kernel[
            (triton.cdiv(2 * used, TILE), triton.cdiv(self.n2, TILE), channels * x.shape[1])
        ](
            scratch,
            out,
            self.columns,
            batch,
            x.shape[1],
            tokens,
            self.n1,
            self.n2,
            TILE=TILE,
            STEP=STEP,
            num_warps=WARPS,
        )

    def _rows(self, x: Tensor, out: Tensor, table: Tensor, *, inverse: bool) -> None:
        rows_kernel[(triton.cdiv(self.n1, TILE), triton.cdiv(2 * self.n2, TILE), x.shape[0] * x.shape[1])](
            x,
            out,
            table,
            self.twiddle,
            self.n1,
            self.n2,
            INVERSE=inverse,
            TILE=TILE,
            STEP=STEP,
            num_warps=WARPS,
        )

    def spectrum(self, kernel: Tensor) -> Tensor:
        """Planes (D, 1, 2, N) of kernels that are cut or zero-padded to T taps."""
        taps = kernel.new_zeros((kernel.shape[0], 1, self.tokens), dtype=torch.float32)
        used = min(kernel.shape[1], self.tokens)
        taps[:, 0, :used] = kernel[:, :used]
        return self.forward(taps)

    def product(self, x: Tensor, spectrum: Tensor, *, conjugate: bool = False) -> Tensor:
        """x times its channels' spectrum, in place."""
        channels, pairs = x.shape[:2]
        grid = (triton.cdiv(self.points, POINTS), channels * pairs)
        product_kernel[grid](x, spectrum, pairs, self.points, CONJUGATE=conjugate, POINTS=POINTS)
        return x

    def cross(self, u: Tensor, h: Tensor) -> Tensor:
        """(D, 1, 2, N): conj(u)·h summed over the pairs."""
        channels, pairs = u.shape[:2]
        out = u.new_empty((channels, 1, 2, self.points))
        cross_kernel[(triton.cdiv(self.points, POINTS), channels)](
            u, h, out, pairs, self.points, POINTS=POINTS
        )
        return out

    def groups(self, channels: int, batch: int) -> list[slice]:
        # a grid's third axis, which counts the pairs, ends at 65535
        size = max(1, min(GROUP // self.points, 65535) // triton.cdiv(batch, 2))
        return [slice(start, start + size) for start in range(0, channels, size)]


@lru_cache(maxsize=4)
def transform(tokens: int, device: torch.device) -> Transform:
    return Transform(tokens, device)


def convolve(u: Tensor, kernel: Tensor) -> Tensor:
    """u (D, B, T) in float32, kernel (D, S) -> the convolution, in u's place."""
    channels, batch, tokens = u.shape
    way = transform(tokens, u.device)
    for group in way.groups(channels, batch):
        way.inverse(way.product(way.forward(u[group]), way.spectrum(kernel[group])), u[group])
    return u


def backward(u: Tensor, h: Tensor, kernel: Tensor, *, signals: bool, taps: bool) -> Tensor | None:
    """For h, the gradient of the convolution: that of the kernel if ``taps``; if ``signals``, the convolution
    comes in the place of u and u's gradient in the place of h (both (D, B, T) in float32).

    Every transform is made once.
    """
    channels, batch, tokens = u.shape
    way, used = transform(tokens, u.device), min(kernel.shape[1], tokens)
    dkernel = kernel.new_zeros(kernel.shape) if taps else None
    for group in way.groups(channels, batch):
        of_u, of_h = way.forward(u[group]), way.forward(h[group])
        if dkernel is not None:
            lags = u.new_empty((of_u.shape[0], 1, tokens))
            way.inverse(way.cross(of_u, of_h), lags)
            dkernel[group, :used] = lags[:, 0, :used].to(dkernel.dtype)
        if signals:
            spectrum = way.spectrum(kernel[group])
            way.inverse(way.product(of_u, spectrum), u[group])
            way.inverse(way.product(of_h, spectrum, conjugate=True), h[group])
    return dkernel


def _rotations(n: int) -> Tensor:
    """The DFT of n points as a real matrix from the right, (2n, 2n) over both planes: [[C, S], [-S, C]].

    Inverse: transposed.
    """
    cos, sin = _waves(n, n, n)
    return torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)]).float()


def _waves(rows: int, columns: int, period: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of exp(-2 pi i a b / period), float64.

    Products are taken modulo the period, so that angles stay small.
    """
    angle = -2 * pi * (torch.outer(torch.arange(rows), torch.arange(columns)) % period).double() / period
    return angle.cos(), angle.sin()
