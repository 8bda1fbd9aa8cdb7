"""Monarch matrices of any order.

Products of block-diagonal factors, each of which mixes one digit of the index.

Legend: p order; n_in, n_out sizes; i_t, o_t input and output sizes of digit t (digit 0 is the fastest); M
rows.
Write the input index in mixed radix, (d_{p-1} ... d_1 d_0). Factor t replaces digit d_t (i_t values) by e_t
(o_t values) with one small dense map for every value of all other digits; after p factors every output digit
has seen every input digit:

    h[.., e_t, e_{t-1}..e_0] = sum_{d_t} factor_t[(d_{p-1}..d_{t+1} e_{t-1}..e_0), e_t, d_t] · h[.., d_t,
    e_{t-1}..e_0]

Between two factors only the digit that is contiguous changes, which is what the permutations P_i of the
textbook form M = (prod_i P_i B_i) P_0 do. At order 2 this is the two-factor product of ``monarch_linear``,
(K, Q, P) then (L, S, R), whose hidden values may also be regrouped: Q = rank·L, R = K·rank gives every block
of the matrix rank ``rank`` instead of 1.
Source: arXiv 2204.00595 (order 2), arXiv 2310.12109 §3 (order p); index map of HazyResearch/fly,
src/ops/blockdiag_butterfly_multiply.py and its rank-r variant ..._einsum.py. Rectangular digits at order p
are this file's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt, prod
from typing import Literal

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from blocks.errors import ConfigError
from blocks.init import fan_in_uniform_

Start = Literal["fan_in", "identity", "orthogonal"]


@dataclass(frozen=True, kw_only=True)
class MonarchShape:
    """Digit sizes of a Monarch matrix, the highest digit first; both sides have one digit a factor.

    Raises: ConfigError for an order below 2, digits that do not pair up, or a rank above 1 beyond order 2.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    rank: int = 1  # of each of the K·L blocks of the matrix; order 2 only

    def __post_init__(self) -> None:
        if len(self.inputs) < 2 or len(self.inputs) != len(self.outputs):
            raise ConfigError(
                "monarch matrix: needs one input and one output digit per factor, 2 or more; "
                f"got {self.inputs}, {self.outputs}"
            )
        if min(*self.inputs, *self.outputs, self.rank) < 1:
            raise ConfigError(
                f"monarch matrix: digits and rank must be at least 1, got {self.inputs}, {self.outputs}, "
                f"rank {self.rank}"
            )
        if self.rank > 1 and len(self.inputs) > 2:
            raise ConfigError(
                f"monarch matrix: rank {self.rank} needs order 2, this one has order {len(self.inputs)}"
            )

    @classmethod
    def square(cls, size: int, order: int = 2, *, rank: int = 1) -> MonarchShape:
        """n x n with the most even digits. Raises: ConfigError when ``size`` has no ``order`` factors above
        1.
        """
        digits = balanced_factors(size, order)
        return cls(inputs=digits, outputs=digits, rank=rank)

    @property
    def order(self) -> int:
        return len(self.inputs)

    @property
    def factors(self) -> tuple[tuple[int, int, int], ...]:
        """(blocks, outputs, inputs) of each factor, in the order they are applied."""
        ins, outs = self.inputs[::-1], self.outputs[::-1]
        if self.order == 2:
            return (ins[1], self.rank * outs[0], ins[0]), (outs[0], outs[1], self.rank * ins[1])
        return tuple((prod(ins[t + 1 :]) * prod(outs[:t]), outs[t], ins[t]) for t in range(self.order))

    @property
    def parameters(self) -> int:
        """Weights of all factors; p·n^(1+1/p) for a square matrix of equal digits."""
        return sum(prod(shape) for shape in self.factors)

    def flops(self, rows: int) -> int:
        """Real FLOPs of ``rows`` products: 2 a weight and row."""
        return 2 * rows * self.parameters

    def initial(self, start: Start = "fan_in", *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        """Factors drawn from torch's global generator.

        "fan_in": U(±1/sqrt(inputs of a block)), as the released layers draw. "identity": the unit matrix, for
        equal digits on both sides. "orthogonal": every block (semi-)orthogonal; the whole matrix is
        orthogonal when it is square of rank 1.
        Raises: ConfigError for "identity" of a shape that has none.
        """
        factors = tuple(torch.zeros(shape, dtype=dtype) for shape in self.factors)
        if start == "identity":
            if self.inputs != self.outputs:
                raise ConfigError(
                    f"monarch matrix: {self.inputs} -> {self.outputs} has no identity; make both sides equal"
                )
            for factor, size in zip(factors, self.inputs[::-1], strict=True):
                # of a block's rank components the first carries everything
                stride = self.rank if factor is factors[-1] else 1
                factor[:, :size, : size * stride : stride] = torch.eye(size, dtype=dtype)
            return factors
        for factor in factors:
            if start == "fan_in":
                fan_in_uniform_(factor, factor.shape[-1])
            else:
                for block in factor:
                    nn.init.orthogonal_(block)
        return factors


def balanced_factors(size: int, order: int = 2) -> tuple[int, ...]:
    """``size`` as a product of ``order`` factors as equal as its divisors allow, the largest first.

    Order 2 gives the pair nearest sqrt(size). Raises: ConfigError when a factor would have to be 1 (and size
    is not).
    """
    if order == 1 or size == 1:
        return (size,) + (1,) * (order - 1)
    best = min(_factorisations(size, order), key=lambda digits: digits[0] / digits[-1], default=None)
    if best is None:
        raise ConfigError(
            f"monarch matrix: {size} is not a product of {order} factors above 1; pad it or lower the order"
        )
    return best


def _factorisations(size: int, order: int) -> Iterator[tuple[int, ...]]:
    """Every way to write ``size`` as ``order`` factors of 2 or more in falling order."""
    if order == 1:
        yield (size,)
        return
    for last in range(2, isqrt(size) + 1):
        if size % last == 0:
            for factors in _factorisations(size // last, order - 1):
                if factors[-1] >= last:
                    yield (*factors, last)


def multiply_reference(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """The definition: one einsum per digit. What ``multiply`` must equal."""
    for factor, stride in zip(factors, _strides(factors), strict=True):
        digits = rearrange(x, "... (above i below) -> ... above i below", i=factor.shape[2], below=stride)
        maps = rearrange(factor, "(above below) o i -> above below o i", below=stride)
        x = rearrange(
            einsum(digits, maps, "... a i b, a b o i -> ... a o b"),
            "... above o below -> ... (above o below)",
        )
    return x


def multiply(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """x (..., n_in), factors (blocks, o_t, i_t) in the order they are applied -> (..., n_out), real or
    complex.

    One batched GEMM a factor. Cost: 2 FLOPs per weight and row (MonarchShape.flops).
    Raises: ConfigError when factors do not chain or x does not fit the first.
    """
    _check(x, factors, transposed=False)
    for factor, stride in zip(factors, _strides(factors), strict=True):
        x = _mix_digit(x, factor, stride)
    return x


def transpose_multiply(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """x (..., n_out) -> M^T x (..., n_in): the transposed factors, last one first. Cost and errors as
    ``multiply``.
    """
    _check(x, factors, transposed=True)
    for factor, stride in reversed(list(zip(factors, _strides(factors), strict=True))):
        x = _mix_digit(x, factor.mT, stride)
    return x


def dense(factors: Sequence[Tensor]) -> Tensor:
    """The (n_out, n_in) matrix itself: its images of the unit vectors."""
    blocks, _, size = factors[0].shape
    return multiply(torch.eye(blocks * size, dtype=factors[0].dtype, device=factors[0].device), factors).mT


def _mix_digit(x: Tensor, factor: Tensor, stride: int) -> Tensor:
    blocks, outputs, inputs = factor.shape
    # (above, below, M, i): the digit last, so that one batched GEMM serves every block
    digits = x.reshape(-1, blocks // stride, inputs, stride).permute(1, 3, 0, 2).reshape(blocks, -1, inputs)
    mixed = torch.bmm(digits, factor.mT).unflatten(0, (-1, stride))
    return mixed.permute(2, 0, 3, 1).reshape(*x.shape[:-1], blocks * outputs)


def _strides(factors: Sequence[Tensor]) -> list[int]:
    """For each factor, how many values the digits below its own have.

    None below the first, all blocks below the last.
    """
    above = [prod(f.shape[2] for f in factors[t + 1 :]) for t in range(len(factors))]
    return [1 if t == 0 else factor.shape[0] // above[t] for t, factor in enumerate(factors)]


def _check(x: Tensor, factors: Sequence[Tensor], *, transposed: bool) -> None:
    for first, second in pairwise(factors):
        outputs, inputs = first.shape[0] * first.shape[1], second.shape[0] * second.shape[2]
        if outputs != inputs:
            raise ConfigError(f"monarch product: one factor gives {outputs} values, the next takes {inputs}")
    for t, factor in enumerate(factors[1:-1], start=1):
        above = prod(f.shape[2] for f in factors[t + 1 :])
        if factor.shape[0] % above:
            raise ConfigError(
                f"monarch product: factor {t} has {factor.shape[0]} blocks, "
                f"not a multiple of the {above} above it"
            )
    end = factors[-1] if transposed else factors[0]
    size = end.shape[0] * end.shape[1 if transposed else 2]
    if x.shape[-1] != size:
        raise ConfigError(f"monarch product: the factors take a last size of {size}, got {x.shape[-1]}")
