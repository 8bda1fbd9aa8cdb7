"""The causal polynomial parameterization to the letter.

Complex Monarch matrices M = DFT · Q and their inverse.

Legend: as in ``blocks.monarch.polynomial``; N = 2n points. O(N³) and complex: for tests and for reading.
Source: arXiv 2310.12109, section 4 and appendix; the factors at order 2 derived from its evaluation form.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.monarch.dft import dft_matrix
from blocks.monarch.polynomial import Factors, apply


def coefficient_matrix(factors: Factors) -> Tensor:
    """The dense matrix (n, n) of one group's digit-wise factors: column j holds the coefficients of q_j."""
    size = factors[-1].shape[1] * factors[-1].shape[2]
    return apply(torch.eye(size, dtype=factors[0].dtype)[None], [f[:1] for f in factors])[0].mT


def doubled(factors: Factors, beyond: Tensor | None = None) -> list[Tensor]:
    """Factors of Q (N, N) that continue those of A (n, n): the top digit gets 2s values and obeys the cap.

    ``beyond`` (G, below, s, s): lower triangular, the columns of Q from n on; they never reach an output.
    Default: identity.
    """
    top = factors[-1]
    size = top.shape[-1]
    eye = torch.eye(size, dtype=top.dtype).expand_as(top)
    upper = F.pad(top, (0, size))
    lower = F.pad(eye if beyond is None else beyond, (size, 0))
    return [*factors[:-1], torch.cat([upper, lower], dim=-2)]


def literal_product(u: Tensor, k: Tensor, output: Factors, kernel: Factors, inputs: Factors) -> Tensor:
    """M_0^{-1}((M_1 [k; 0]) · (M_2 [u; 0]))[0 : n], complex: u (..., n), k (n,), factors of Q (one group)
    with N = 2n.

    Real up to rounding and causal when the factors obey the theorem; whatever they are, the arithmetic is the
    paper's.
    """
    n = u.shape[-1]
    dft = dft_matrix(2 * n)
    m0, m1, m2 = (dft @ coefficient_matrix(f).to(dft.dtype) for f in (output, kernel, inputs))
    values = (m1[:, :n] @ k.to(dft.dtype)) * (u.to(dft.dtype) @ m2[:, :n].mT)
    return torch.linalg.solve(m0, values.mT).mT[..., :n]


def monarch_factors(factors: Factors) -> tuple[Tensor, Tensor]:
    """M = DFT_N Q at order 2 as the two complex factors of a Monarch matrix acting on the digit-reversed
    input.

    For Q from Lambda (b, b) and Gamma (b, S, S), N = S·b: R_{j0} = F_S Gamma_{j0} evaluates r at the S-th
    roots of unity, and L_{k0}[k1, j0] = sum_a omega_N^{a (k0 + S k1)} Lambda[a, j0] evaluates l where Z^b is
    the k0-th of them.
    Shape: ((b, S, S), (S, b, b)), see blocks.monarch.matrix.
    """
    lower, gamma = factors[0][0, 0], factors[1][0]
    b, size = len(lower), gamma.shape[-1]
    first = dft_matrix(size) @ gamma.to(torch.complex128)
    points = dft_matrix(b * size)[:, :b].reshape(b, size, b)  # (k1, k0, a)
    return first, points.transpose(0, 1) @ lower.to(torch.complex128)
