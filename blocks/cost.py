"""The cost of a block: the ledger that every comparison reads.

A multiply-add is 2 FLOPs. ``matmul`` and ``fft`` make the canonical number; ``elementwise`` (norms, softmax,
activations, gates, soft-caps, rotations) is listed apart and never matched on. Work done once per forward
pass whatever the batch (an implicit filter, a kernel's transform) is kept apart as ``shared``: per token it
shrinks with the batch.
Formulas and their sources: the accounting chapter of the documentation; every one is proven against a counted
graph.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from math import ceil, log2


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Forward FLOPs of one sequence, and of one forward pass (``shared_*``).

    Kinds: ``matmul``, ``fft``, ``elementwise``.
    """

    matmul: int = 0
    fft: int = 0
    elementwise: int = 0
    shared_matmul: int = 0
    shared_fft: int = 0
    shared_elementwise: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __mul__(self, times: int) -> Cost:
        return Cost(**{f.name: getattr(self, f.name) * times for f in fields(self)})

    __rmul__ = __mul__

    def forward(self, batch: int = 1) -> int:
        """Canonical FLOPs of one forward pass over ``batch`` sequences."""
        return batch * (self.matmul + self.fft) + self.shared_matmul + self.shared_fft

    def per_token(self, tokens: int, batch: int = 1) -> Fraction:
        """Canonical forward FLOPs per token, exact: the shared work is spread over ``batch * tokens``."""
        return Fraction(self.forward(batch), batch * tokens)


ZERO = Cost()


def total(costs: object) -> Cost:
    """Sum of an iterable of costs; the empty sum is zero."""
    return sum(costs, start=ZERO)  # type: ignore[call-overload, no-any-return]


def fft_flops(length: int, rows: int = 1) -> int:
    """Real FFT of ``length`` points, forward or inverse, over ``rows`` rows.

    2.5 N log2 N each (algorithmic count).
    """
    return rows * ceil(2.5 * length * log2(length)) if length > 1 else 0
