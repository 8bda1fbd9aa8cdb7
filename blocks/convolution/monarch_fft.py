"""The convolution theorem with its transforms as order-2 Monarch matrices.

Nothing but GEMMs and pointwise products.

Legend: R rows (channels times sequences), T tokens, N = n1·n2 transform length, H = n1//2 + 1 kept half of
the first digit.
A signal is read as an (n1, n2) matrix, x[n1, n2] at time n2 + N2·n1. A DFT of length N is then a DFT of
length n1 down the columns, a twiddle exp(-2 pi i k1 n2/N), and a DFT of length n2 along the rows; bin k1 +
N1·k2 lands at (k1, k2). Convolution never needs the natural order, so no transposition is made. Three savings
keep every sequence in a row of its own: the signal is real, so the first DFT is real and rows k1 and n1 - k1
are conjugate (H of them suffice); the padded rows of the input are never multiplied; and only the rows of the
output that are asked for are computed.
Source: arXiv 2310.12109, section 3 (the DFT as a Monarch matrix); arXiv 2311.05908 for the permuted spectrum.
On a CPU the FFT wins at every length; this is its executable definition, and the form matrix units want.
"""

from __future__ import annotations

from math import isqrt, pi

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from blocks.convolution.fft import fft_length


def monarch_dft_reference(x: Tensor, n1: int, n2: int) -> Tensor:
    """The DFT of x (..., n1·n2) by its two complex factors, in natural order.

    What ``torch.fft.fft`` must give.
    """
    i, j = torch.arange(n1), torch.arange(n2)
    first = torch.exp(-2j * pi * torch.outer(i, i).double() / n1)
    twiddle = torch.exp(-2j * pi * torch.outer(i, j).double() / (n1 * n2))
    second = torch.exp(-2j * pi * torch.outer(j, j).double() / n2)
    columns = einsum(first, rearrange(x, "... (a b) -> ... a b", a=n1).to(first), "k a, ... a b -> ... k b")
    rows = einsum(columns * twiddle, second, "... k b, b l -> ... k l")
    return rearrange(rows, "... k l -> ... (l k)")


def factors(length: int) -> tuple[int, int]:
    """n1·n2 = length with the fewest FLOPs.

    The first digit costs 4·n1 a token (real), the second 16·n2 (complex).
    """
    divisors = [d for d in range(1, isqrt(length) + 1) if length % d == 0]
    pairs = [(a, length // a) for d in divisors for a in (d, length // d)]
    return min(pairs, key=lambda pair: 4 * pair[0] + 16 * pair[1])


def monarch_causal(u: Tensor, k: Tensor, *, precision: torch.dtype | None = None) -> Tensor:
    """``blocks.convolution.fft.causal_convolution`` by Monarch products: u (B, D, T), k (D, S) -> (B, D,
    T).
    """
    return monarch_circular(u, k[:, : u.shape[-1]], fft_length(u.shape[-1]), precision=precision)


def monarch_circular(u: Tensor, taps: Tensor, length: int, *, precision: torch.dtype | None = None) -> Tensor:
    """First T outputs of the circular convolution of ``length`` points.

    Shape: u (B, D, T), taps (D, S <= length) -> (B, D, T) in u's dtype.
    Precision: float32 (float64 when either argument is). A ``precision`` narrower than that rounds the
    operands of every product, as matrix units do; sums stay in float32. The result is then NOT causal: see
    blocks.convolution.toeplitz.
    Cost: ``monarch_flops``.
    """
    if u.numel() == 0:
        return u
    wide = torch.promote_types(torch.promote_types(u.dtype, taps.dtype), torch.float32)
    n1, n2 = factors(length)
    tables = _Tables(n1, n2, wide, u.device, precision)
    tokens = u.shape[-1]
    u_RT = rearrange(u, "b d t -> (d b) t").to(wide)
    spectra_DBKL = rearrange(tables.transform(u_RT), "(d b) k l -> d b k l", b=u.shape[0])
    product_DBKL = spectra_DBKL * tables.transform(taps.to(wide))[:, None]
    y_RT = tables.inverse(rearrange(product_DBKL, "d b k l -> (d b) k l"), tokens)
    return rearrange(y_RT, "(d b) t -> b d t", b=u.shape[0]).to(u.dtype)


def monarch_flops(*, rows: int, channels: int, tokens: int, taps: int, length: int) -> int:
    """Executed forward FLOPs: ``rows`` signals there and back, ``channels`` kernels of ``taps`` taps
    there.
    """
    n1, n2 = factors(length)
    half, used, of_kernel = n1 // 2 + 1, -(-tokens // n2), -(-taps // n2)
    one_way = 8 * half * n2 * n2 + 6 * half * n2  # second DFT and twiddle of one row; a complex product is 6
    outer = 4 * half * n2  # first DFT, for one row of the (n1, n2) matrix
    return rows * (2 * one_way + 2 * outer * used + 6 * half * n2) + channels * (one_way + outer * of_kernel)


class _Tables:
    """The matrices of both transforms, and the rounding between them."""

    def __init__(
        self, n1: int, n2: int, dtype: torch.dtype, device: torch.device, precision: torch.dtype | None
    ) -> None:
        self.n1, self.n2, self.precision = n1, n2, precision
        half = n1 // 2 + 1
        # angles in float64, by products taken modulo the period: float32 angles of a long transform would be
        # wrong in the fourth digit
        k1, rows, columns = (torch.arange(n, device=device) for n in (half, n1, n2))
        angle = 2 * pi * (torch.outer(k1, rows) % n1).double() / n1
        self.first = torch.cat([angle.cos(), -angle.sin()]).to(dtype)  # (2H, n1)
        # a row of the kept half stands for itself and its conjugate, except those that are their own
        weight = torch.full((half, 1), 2.0, device=device, dtype=torch.float64)
        weight[0] = 1
        if n1 % 2 == 0:
            weight[-1] = 1
        scale = weight / (n1 * n2)
        self.last = torch.cat([scale * angle.cos(), -scale * angle.sin()]).mT.to(dtype)  # (n1, 2H)
        complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
        turn = -2 * pi * (torch.outer(k1, columns) % (n1 * n2)).double() / (n1 * n2)
        self.twiddle = torch.polar(torch.ones_like(turn), turn).to(complex_dtype)  # (H, n2)
        turn = -2 * pi * (torch.outer(columns, columns) % n2).double() / n2
        self.second = torch.polar(torch.ones_like(turn), turn).to(complex_dtype)  # (n2, n2)

    def transform(self, x: Tensor) -> Tensor:
        """Real (R, T <= N) -> complex (R, H, n2): the kept half of the spectrum in permuted order."""
        used = -(-x.shape[-1] // self.n2)
        x = rearrange(F.pad(x, (0, used * self.n2 - x.shape[-1])), "r (a b) -> r a b", b=self.n2)
        re, im = torch.matmul(self._round(self.first[:, :used]), self._round(x)).chunk(2, dim=1)
        return self._along_rows(torch.complex(re, im) * self.twiddle, self.second)

    def inverse(self, spectrum: Tensor, tokens: int) -> Tensor:
        """Complex (R, H, n2) -> the first ``tokens`` of the real signal (R, N)."""
        z = self._along_rows(spectrum, self.second.conj()) * self.twiddle.conj()
        used = -(-tokens // self.n2)
        x = torch.matmul(self._round(self.last[:used]), self._round(torch.cat([z.real, z.imag], dim=1)))
        return rearrange(x, "r a b -> r (a b)")[:, :tokens]

    def _along_rows(self, z: Tensor, matrix: Tensor) -> Tensor:
        r, h, _ = z.shape
        return torch.mm(self._round(z).reshape(r * h, self.n2), self._round(matrix)).view(r, h, self.n2)

    def _round(self, x: Tensor) -> Tensor:
        if self.precision is None:
            return x
        if x.is_complex():
            return torch.complex(self._round(x.real), self._round(x.imag))
        return x.to(self.precision).to(x.dtype)
