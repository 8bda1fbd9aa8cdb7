"""The discrete Fourier transform as a Monarch matrix of any order.

Legend: n = n_{p-1} ... n_1 n_0 points in mixed radix, omega_n = exp(-2 pi i / n), N_t = n_0 n_1 ... n_{t-1}.
Output index k = sum_t e_t N_t; input index j with its digits reversed, j = sum_t d_t n/N_{t+1} (d_0 counts
the largest step).
Then j·k/n = sum_{s,t} d_t e_s N_s/N_{t+1}, and the terms with s > t are whole numbers, so that

    exp(-2 pi i j k / n) = prod_t exp(-2 pi i d_t (sum_{s <= t} e_s N_s) / N_{t+1})

and factor t is the t-th of these: a DFT of n_t points times the twiddles of the digits below. DFT = Monarch ·
digit reversal.
Source: Cooley and Tukey 1965; as Monarch factors arXiv 2204.00595 §3 and HazyResearch/flash-fft-conv,
flashfftconv/conv.py (twiddles apart there); this derivation is the file's own. For n = b² it is L_{k0}[k1,
j0] = omega_n^{k0 j0} omega_b^{k1 j0}, R = the b-point DFT in each block.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, prod

import torch
from torch import Tensor


def dft_factors(digits: Sequence[int], *, dtype: torch.dtype = torch.complex128) -> tuple[Tensor, ...]:
    """Factors (blocks, n_t, n_t) whose Monarch product is the DFT of the digit-reversed input.

    ``digits`` highest first.
    """
    sizes = tuple(reversed(digits))
    factors = []
    for t, size in enumerate(sizes):
        lower, upper = prod(sizes[:t]), prod(sizes[t + 1 :])
        # (below, e_t, 1)
        frequency = torch.arange(size)[None, :, None] * lower + torch.arange(lower)[:, None, None]
        turns = frequency * torch.arange(size) % (lower * size)  # whole numbers: no phase is lost at large n
        blocks = torch.exp(-2j * pi * turns.to(torch.float64) / (lower * size)).to(dtype)
        factors.append(blocks.repeat(upper, 1, 1))  # the same for every value of the digits above
    return tuple(factors)


def digit_reversal(digits: Sequence[int]) -> Tensor:
    """Index r (n,) with monarch(dft_factors(digits)) applied to x[r] = DFT x; ``digits`` highest first."""
    order = len(digits)
    return torch.arange(prod(digits)).reshape(*reversed(digits)).permute(*reversed(range(order))).flatten()


def dft_matrix(points: int, *, dtype: torch.dtype = torch.complex128) -> Tensor:
    """The DFT omega^{k j} as a dense (n, n) matrix, for tests."""
    index = torch.arange(points)
    turns = index[:, None] * index % points
    return torch.exp(-2j * pi * turns.to(torch.float64) / points).to(dtype)
