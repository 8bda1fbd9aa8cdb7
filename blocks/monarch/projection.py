"""The Monarch matrix nearest to a dense one, and the exact factors of a matrix that is one.

Legend: two factors (K, Q, P) and (L, S, R) as in ``monarch_linear``; s, l digits of the output, k, p of the
input.
The block of a Monarch matrix that leads from input block k to the outputs congruent to l (an S x P matrix) is
a sum of rank-1 terms, one for each hidden value that belongs to both k and l, and every entry of the matrix
lies in one block only.
So the nearest Monarch matrix takes the best low-rank approximation of each block by itself (Eckart-Young):
Frobenius-optimal, its squared error the sum of the squared singular values left out. Source: arXiv 2204.00595
§3.3 and appendix; HazyResearch/fly, src/ops/blockdiag_butterfly_projection.py (square, rank 1) and
..._einsum.py (rank r). Free shapes, ranks that differ between blocks, and order p are derived here.
Factors are unique up to an invertible map inside each block's rank only: compare matrices, never factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from blocks.errors import ConfigError
from blocks.monarch.matrix import MonarchShape


def project_pair(matrix: Tensor, first: Sequence[int], second: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Factors (K, Q, P), (L, S, R) of the nearest such matrix to ``matrix`` (L·S, K·P), real or complex.

    Any shapes with K·Q = L·R. Hidden value f = k·Q + q belongs to block (k, l = f mod L), so a block has
    floor(Q/L) or ceil(Q/L) terms (exactly ``rank`` when Q = rank·L). Each singular value goes half into
    either factor.
    Raises: ConfigError when the shapes do not chain or do not fit the matrix.
    """
    (k, q, p), (length, s, r) = first, second
    if k * q != length * r:
        raise ConfigError(
            f"monarch projection: the first factor gives {k * q} values, the second takes {length * r}"
        )
    if matrix.shape != (length * s, k * p):
        raise ConfigError(
            f"monarch projection: factors {tuple(first)}, {tuple(second)} make a {length * s} x {k * p} "
            f"matrix, got {tuple(matrix.shape)}"
        )
    blocks = rearrange(matrix, "(s l) (k p) -> k l s p", l=length, k=k)
    # (k, l, s, m), (k, l, m), (k, l, m, p) with m = min(s, p)
    u, sigma, vh = torch.linalg.svd(blocks, full_matrices=False)
    left, right = u * sigma.sqrt()[..., None, :], sigma.sqrt()[..., None] * vh
    hidden = torch.arange(k * q, device=matrix.device)
    block, residue = hidden // q, hidden % length
    # the how-manieth hidden value of its (k, l), counted from the start of block k
    term = (hidden - block * q) // length
    has_term = term < sigma.shape[-1]  # more terms than singular values: the rest of the factors stays zero
    w1, w2 = matrix.new_zeros(tuple(first)), matrix.new_zeros(tuple(second))
    block, residue, term, hidden = block[has_term], residue[has_term], term[has_term], hidden[has_term]
    w1[block, hidden % q] = right[block, residue, term]
    w2[residue, :, hidden // length] = left[block, residue, :, term]
    return w1, w2


def project(matrix: Tensor, shape: MonarchShape) -> tuple[Tensor, ...]:
    """Factors of a Monarch matrix of ``shape`` near ``matrix`` (n_out, n_in), real or complex.

    Order 2: the nearest one (``project_pair``). Order p > 2: digit 0 is split off optimally, then the next
    from what remains; a matrix that is Monarch of this shape comes back exactly, any other with a squared
    error of at most p - 1 times the least (each step's error is orthogonal to the later ones' and no larger
    than the least).
    Raises: ConfigError when the shape does not fit the matrix.
    """
    if shape.order == 2:
        return project_pair(matrix, *shape.factors)
    outputs, inputs = shape.outputs[-1], shape.inputs[-1]
    blocks, _, _ = shape.factors[0]
    if matrix.shape[0] % outputs or matrix.shape[1] != blocks * inputs:
        raise ConfigError(
            f"monarch projection: {shape.inputs} -> {shape.outputs} does not fit a matrix of "
            f"{tuple(matrix.shape)}"
        )
    grid = rearrange(matrix, "(s l) (k p) -> k l s p", l=outputs, k=blocks)
    u, sigma, vh = torch.linalg.svd(grid, full_matrices=False)
    first = vh[:, :, 0]  # unit rows, so that an error of what remains is an equal error of the whole
    remaining = rearrange(u[..., 0] * sigma[..., :1], "k l s -> l s k")
    inner = MonarchShape(inputs=shape.inputs[:-1], outputs=shape.outputs[:-1])
    parts = [project(matrix_slice, inner) for matrix_slice in remaining]
    # block order of factor t: digits above, then digits below with the split-off digit fastest
    later_factors = [
        rearrange(torch.stack(factors), "l b o i -> (b l) o i") for factors in zip(*parts, strict=True)
    ]
    return (first, *later_factors)


def error_of(matrix: Tensor, shape: MonarchShape) -> Tensor:
    """Frobenius distance from ``matrix`` to the nearest order-2 Monarch matrix.

    Computed from singular values, without building it.
    """
    if shape.order != 2:
        raise ConfigError(
            f"monarch projection: the least error is known for order 2, not for order {shape.order}"
        )
    grid = rearrange(matrix, "(s l) (k p) -> k l s p", l=shape.outputs[1], k=shape.inputs[0])
    return torch.linalg.svdvals(grid)[..., shape.rank :].square().sum().sqrt()
