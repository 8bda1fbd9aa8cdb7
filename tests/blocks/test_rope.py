"""RoPE: relative, norm-preserving, half-split, in wide arithmetic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.attention.rope import rope_tables, rotate


def _rotate(x: torch.Tensor, positions: torch.Tensor, base: float = 10_000.0, factor: float = 1.0) -> torch.Tensor:
    return rotate(x, *rope_tables(positions, x.shape[-1], base=base, factor=factor, dtype=x.dtype))


@settings(deadline=None, max_examples=25)
@given(half=st.integers(1, 8), start=st.integers(0, 5000), factor=st.sampled_from([1.0, 8.0]), seed=st.integers(0, 2**16))
def test_rotation_is_multiplication_by_a_complex_phase_per_half_split_pair(half: int, start: int, factor: float, seed: int) -> None:
    x = torch.randn(3, 5, 2 * half, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    positions = torch.arange(start, start + 5)
    frequency = torch.tensor([500.0 ** (-2 * i / (2 * half)) for i in range(half)], dtype=torch.float64)
    phase = torch.polar(torch.ones(5, half, dtype=torch.float64), positions[:, None] / factor * frequency)
    turned = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous()) * phase
    torch.testing.assert_close(_rotate(x, positions, 500.0, factor), torch.cat((turned.real, turned.imag), -1), rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=20)
@given(shift=st.integers(0, 4096), seed=st.integers(0, 2**16))
def test_scores_depend_on_the_distance_only(shift: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 7, 16, dtype=torch.float64, generator=generator)
    here, there = torch.arange(7), torch.arange(7) + shift
    torch.testing.assert_close(_rotate(q, here) @ _rotate(k, here).T, _rotate(q, there) @ _rotate(k, there).T, rtol=1e-9, atol=1e-9)


def test_position_zero_is_left_alone() -> None:
    x = torch.randn(1, 8)
    assert torch.equal(_rotate(x, torch.tensor([0])), x)


def test_factor_stretches_positions() -> None:
    x = torch.randn(4, 8, dtype=torch.float64)
    torch.testing.assert_close(_rotate(x, 8 * torch.arange(4), factor=8.0), _rotate(x, torch.arange(4)))


@pytest.mark.parametrize(
    ("dtype", "table"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_tables_are_float32_or_wider_and_the_result_keeps_its_dtype(dtype: torch.dtype, table: torch.dtype) -> None:
    cos, sin = rope_tables(torch.arange(3), 4, base=10_000.0, dtype=dtype)
    assert (cos.dtype, sin.dtype, rotate(torch.randn(3, 4, dtype=dtype), cos, sin).dtype) == (table, table, dtype)


def test_bfloat16_is_rotated_in_float32_and_rounded_once() -> None:
    x = torch.randn(9, 8).bfloat16()
    assert torch.equal(_rotate(x, torch.arange(9)), _rotate(x.float(), torch.arange(9)).bfloat16())
