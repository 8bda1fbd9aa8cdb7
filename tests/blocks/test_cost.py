"""The constants of the ledger, against values worked out by hand: a formula and a counter that share one are one witness."""

from __future__ import annotations

from fractions import Fraction

import pytest

from blocks.convolution.mixer import M2MixerConfig
from blocks.cost import Cost, fft_flops


@pytest.mark.parametrize(("length", "flops"), [(1, 0), (2, 5), (8, 60), (1024, 25_600), (65_536, 2_621_440)])
def test_a_real_transform_costs_two_and_a_half_n_log_n(length: int, flops: int) -> None:
    """2.5 N log2 N: half of the 5 N log2 N of a complex radix-2 transform. 8 points: 2.5 · 8 · 3."""
    assert fft_flops(length) == flops
    assert fft_flops(length, rows=3) == 3 * flops


def test_a_causal_convolution_costs_two_transforms_and_a_product_a_channel() -> None:
    """10 log2(2T) + 6 (T + 1)/T a token and channel for the signal: at T = 256, 10 · 9 + 6 · 257/256."""
    tokens, width = 256, 8
    cost = M2MixerConfig(width=width, max_tokens=tokens).build().cost(tokens)
    assert Fraction(cost.fft, tokens * width) == 90 + Fraction(6 * 257, 256)
    assert Fraction(cost.shared_fft, tokens * width) == 45  # one transform of the kernel, whatever the batch


def test_work_done_once_a_forward_is_spread_over_its_batch() -> None:
    cost = Cost(matmul=100, fft=20, shared_matmul=8, shared_fft=4, elementwise=999)
    assert cost.per_token(4, batch=2) == Fraction(2 * 120 + 12, 8)
