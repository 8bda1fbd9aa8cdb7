"""Hypothesis strategies for shapes and seeds; a seeded generator draws the tensors.

Hypothesis is a development dependency, so this module is imported by tests only.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from arch_lab.laws.cases import LONGEST


class TokenShape(NamedTuple):
    batch: int
    tokens: int


def token_shapes(*, longest: int = LONGEST) -> st.SearchStrategy[TokenShape]:
    """B 1-3 and T 1-65; half of the lengths are the ones that break things: odd, prime, 2^n - 1 and 2^n + 1.

    Failing shapes shrink towards one row of one token.
    """
    odd = [n for n in (1, 2, 3, 5, 7, 9, 11, 13, 15, 17, 31, 33, 47, 61, 63, 65) if n <= longest]
    lengths = st.one_of(st.sampled_from(odd), st.integers(1, longest))
    return st.builds(TokenShape, batch=st.integers(1, 3), tokens=lengths)


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**31 - 1)
