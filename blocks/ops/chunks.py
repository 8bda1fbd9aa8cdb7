"""Rows of a long input in chunks whose intermediate values stay in cache."""

from __future__ import annotations

from torch import Tensor


def row_chunks(rows: Tensor, longest: int) -> list[slice]:
    """Equal chunks of at most ``longest`` rows, none longer than the first.

    Below float32 there is one chunk: weight gradients are summed over chunks, and a sum of rounded sums would
    be another number.
    """
    count = len(rows)
    pieces = 1 if rows.itemsize < 4 else max(1, -(-count // longest))
    size = max(1, -(-count // pieces))
    return [slice(first, min(first + size, count)) for first in range(0, count, size)] or [slice(0, 0)]
