"""Monarch matrices that stay causal: the polynomial parameterization and its real, fast form.

Legend: D channels, B batch, T tokens, G groups of channels that share a matrix; n >= T padded length; p
order; digits n = s · b_{p-2} · ... · b_0 (s on top), j = (j_{p-1} ... j_1 j_0).

    y = A_0^{-1} causal_convolution(A_1 k, A_2 u)

Each A is lower triangular in time, a product of p small maps that are lower triangular in one digit; no n x n
matrix is formed. A = 1 is the causal convolution; a generic A is causal and not Toeplitz. Diagonals are fixed
at 1, which keeps A invertible and loses nothing (a column of one factor can be scaled against a row of the
next).
Source: arXiv 2310.12109, section 4 and appendix. Theorem, proof and what is derived here: docs/monarch.md;
the literal complex path that tests compare with: ``polynomial_reference``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from blocks.convolution.algorithms import convolve_by_transform
from blocks.errors import ConfigError

# lowest digit first; factor t (G, values of the digits below, b_t, b_t), lower triangular
Factors = Sequence[Tensor]


def polynomial_product(u: Tensor, k: Tensor, output: Factors, kernel: Factors, inputs: Factors) -> Tensor:
    """y = A_0^{-1} causal_convolution(A_1 k, A_2 u) with (A_0, A_1, A_2) given by (``output``, ``kernel``,
    ``inputs``).

    Shape: u (D, B, T), k (D, S) -> y (D, B, T); taps beyond T are ignored. n, the product of the digits, must
    be at least T.
    Cost: 2·n·(sum of digits) FLOPs per channel and sequence for A_2 and again for A_0^{-1}, the same a
    channel once per forward pass for A_1, b_t³ for the inverse of each block of A_0, and the convolution.
    """
    tokens = u.shape[-1]
    return solve(_convolve(apply(u, inputs), apply(k[..., :tokens], kernel)), output)


def _convolve(w: Tensor, taps: Tensor) -> Tensor:
    return convolve_by_transform(w.transpose(0, 1), taps).transpose(0, 1)


def apply(x: Tensor, factors: Factors) -> Tensor:
    """A x along the last axis: x (D, ..., T) -> (D, ..., T), channel d with the matrix of its group. One
    batched GEMM per digit.
    """
    # a factor depends on the input digits below its own: from the top down
    return _digit_by_digit(x, list(reversed(factors)))


def solve(z: Tensor, factors: Factors) -> Tensor:
    """A^{-1} z along the last axis; shapes as ``apply``.

    The small factors are inverted by substitution, then applied as GEMMs: unit triangular blocks of some
    dozen rows lose no digits by it, and forward and backward take a fifth to two thirds of the time of
    substitution on the signal itself (one CPU thread; 1 to 64 blocks of 16 or 32, 8,192 or more rows in all).
    """
    inverses = [
        torch.linalg.solve_triangular(f, _identity(f), upper=False, unitriangular=True) for f in factors
    ]
    return _digit_by_digit(z, inverses)


def _identity(factor: Tensor) -> Tensor:
    return torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)


def _digit_by_digit(x: Tensor, maps: Factors) -> Tensor:
    """Small dense maps, each on its digit of the zero-padded last axis of x (D, ..., T).

    Maps: (G, below, b_t, b_t).
    """
    tokens, groups, length = x.shape[-1], maps[0].shape[0], prod([m.shape[-1] for m in maps])
    if tokens > length:
        raise ConfigError(f"{tokens} tokens exceed the {length} these factors are made for")
    rows = F.pad(x.reshape(groups, -1, tokens), (0, length - tokens))
    for m in maps:
        _, stride, size, _ = m.shape
        # (G·below, R·above, digit): the digit last, so that all rows of one block are one GEMM
        digits = rearrange(rows, "g r (above i below) -> (g below) (r above) i", i=size, below=stride)
        mixed = torch.bmm(digits, m.flatten(0, 1).mT)
        rows = rearrange(
            mixed, "(g below) (r above) i -> g r (above i below)", g=groups, above=length // (size * stride)
        )
    return rows[..., :tokens].reshape(x.shape)


def unit_lower_triangular(packed: Tensor, size: int) -> Tensor:
    """(..., size·(size - 1)/2) entries row by row -> (..., size, size), ones on the diagonal, zeros above
    it.
    """
    row, column = torch.tril_indices(size, size, -1, device=packed.device)
    full = (
        torch.eye(size, dtype=packed.dtype, device=packed.device)
        .expand(*packed.shape[:-1], size, size)
        .clone()
    )
    full[..., row, column] = packed
    return full


class DigitTriangular(nn.Module):
    """A unit lower triangular matrix per group, a product of p digit-wise factors.

    ``digits`` highest first, (s, b_{p-2}, ..., b_0); starts as the identity. Packed entries are stored row by
    row, so the leading block of a factor, which serves shorter sequences, is a prefix of its storage.
    Parameters: ``parameter_count(digits)`` a group, sum_t (digits below) · b_t (b_t - 1)/2.
    """

    def __init__(self, digits: tuple[int, ...], groups: int) -> None:
        super().__init__()
        self.sizes = digits[::-1]  # lowest first
        self.strides = tuple(prod(self.sizes[:t]) for t in range(len(digits)))
        self.lower = nn.ParameterList(
            nn.Parameter(torch.empty(groups, stride, size * (size - 1) // 2))
            for stride, size in zip(self.strides, self.sizes, strict=True)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for packed in self.lower:
            nn.init.zeros_(packed)

    def digits(self, tokens: int) -> tuple[int, ...]:
        """Sizes of the digits, lowest first, that ``tokens`` tokens need: the top digit is cut. Their product
        is n.
        """
        top = -(-tokens // self.strides[-1])
        if top > self.sizes[-1]:
            raise ConfigError(f"{tokens} tokens exceed the {prod(self.sizes)} this matrix was built for")
        return (*self.sizes[:-1], max(1, top))

    def factors(self, tokens: int) -> list[Tensor]:
        """The factors for ``tokens`` tokens, float32 at least: what ``apply`` and ``solve`` take."""
        factors = []
        for packed, size in zip(self.lower, self.digits(tokens), strict=True):
            entries = packed[..., : size * (size - 1) // 2].to(
                torch.promote_types(packed.dtype, torch.float32)
            )
            factors.append(unit_lower_triangular(entries, size))
        return factors

    def row(self, t: int) -> Tensor:
        """(G, t + 1): row t of A up to its diagonal, which is 1. O(t) work per group: what decoding reads."""
        row = self.lower[0].new_ones(self.lower[0].shape[0], 1)
        row = row.to(torch.promote_types(row.dtype, torch.float32))
        for packed, size, stride in zip(self.lower, self.sizes, self.strides, strict=True):
            digit = t // stride % size if stride != self.strides[-1] else t // stride
            start = digit * (digit - 1) // 2
            # (G, below, digit + 1)
            entries = F.pad(packed[..., start : start + digit].to(row.dtype), (0, 1), value=1.0)
            row = (entries.mT * row[:, None]).flatten(1)  # the digit above is the slower one
            if stride != self.strides[-1]:
                row = F.pad(row, (0, (size - digit - 1) * stride))
        return row[:, : t + 1]


def parameter_count(digits: Sequence[int]) -> int:
    """Trained entries of one unit lower triangular A of these digits, highest first."""
    sizes = tuple(digits)[::-1]
    return sum(prod(sizes[:t]) * size * (size - 1) // 2 for t, size in enumerate(sizes))


def digits_for(tokens: int, order: int, base: int | None = None) -> tuple[int, ...]:
    """(s, b, ..., b) with s · b^(p-1) >= tokens: as even as possible by default, s as small as it can be.

    Raises: ConfigError for an order or base below 2.
    """
    if order < 2:
        raise ConfigError(f"order must be at least 2, got {order}")
    if base is None:
        base = 2
        while base**order < tokens:
            base += 1
    if base < 2:
        raise ConfigError(f"base must be at least 2, got {base}")
    return (-(-tokens // base ** (order - 1)),) + (base,) * (order - 1)
