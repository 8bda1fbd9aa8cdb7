"""RoPE and p-RoPE: relative, norm-preserving, half-split, in wide arithmetic; a fraction turns its pairs and no others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.attention.rope import (
    LARGEST_TABLE,
    TABLES,
    Drop,
    check_fraction,
    counted_tables,
    rope_tables,
    rope_tables_of,
    rotate,
    rotated_pairs,
)
from blocks.dispatch import use_implementation
from blocks.errors import ConfigError

DROPS: tuple[Drop, ...] = ("low", "high")
FRACTIONS = [(p, drop) for p in (0.0, 0.25, 0.5, 0.75, 1.0) for drop in DROPS]
every_fraction = pytest.mark.parametrize(("fraction", "drop"), FRACTIONS)


def _rotate(
    x: torch.Tensor,
    positions: torch.Tensor,
    base: float = 10_000.0,
    factor: float = 1.0,
    fraction: float = 1.0,
    drop: Drop = "low",
) -> torch.Tensor:
    tables = rope_tables(
        positions, x.shape[-1], base=base, factor=factor, fraction=fraction, drop=drop, dtype=x.dtype
    )
    return rotate(x, *tables, drop=drop)


@settings(deadline=None, max_examples=25)
@given(
    half=st.integers(1, 8),
    start=st.integers(0, 5000),
    factor=st.sampled_from([1.0, 8.0]),
    seed=st.integers(0, 2**16),
)
def test_rotation_is_multiplication_by_a_complex_phase_per_half_split_pair(
    half: int, start: int, factor: float, seed: int
) -> None:
    x = torch.randn(3, 5, 2 * half, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    positions = torch.arange(start, start + 5)
    frequency = torch.tensor([500.0 ** (-2 * i / (2 * half)) for i in range(half)], dtype=torch.float64)
    phase = torch.polar(torch.ones(5, half, dtype=torch.float64), positions[:, None] / factor * frequency)
    turned = torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous()) * phase
    torch.testing.assert_close(
        _rotate(x, positions, 500.0, factor),
        torch.cat((turned.real, turned.imag), -1),
        rtol=1e-10,
        atol=1e-10,
    )


@settings(deadline=None, max_examples=25)
@given(shift=st.integers(0, 4096), seed=st.integers(0, 2**16), part=st.sampled_from(FRACTIONS))
def test_scores_depend_on_the_distance_only(shift: int, seed: int, part: tuple[float, Drop]) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 7, 16, dtype=torch.float64, generator=generator)
    scores = []
    for start in (0, shift):
        turned = [_rotate(x, torch.arange(start, start + 7), fraction=part[0], drop=part[1]) for x in (q, k)]
        scores.append(turned[0] @ turned[1].T)
    torch.testing.assert_close(*scores, rtol=1e-9, atol=1e-9)


@every_fraction
def test_position_zero_is_left_alone(fraction: float, drop: Drop) -> None:
    x = torch.randn(1, 8)
    assert torch.equal(_rotate(x, torch.tensor([0]), fraction=fraction, drop=drop), x)


# --- p-RoPE ------------------------------------------------------------------------------------------------------


@every_fraction
def test_a_fraction_turns_its_pairs_as_rope_does_and_leaves_the_others_to_the_bit(
    fraction: float, drop: Drop
) -> None:
    """Channels i and i + C/2 move for i < n (reversed: for i >= C/2 - n); the frozen ones are the tail of EACH half."""
    x, positions = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), torch.arange(3, 8)
    n = rotated_pairs(16, fraction)
    moving = range(n) if drop == "low" else range(8 - n, 8)
    channels = torch.tensor([c % 8 in moving for c in range(16)])
    found = _rotate(x, positions, fraction=fraction, drop=drop)
    assert torch.equal(found[:, channels], _rotate(x, positions)[:, channels])
    assert torch.equal(found[:, ~channels], x[:, ~channels])
    assert n == {0.0: 0, 0.25: 2, 0.5: 4, 0.75: 6, 1.0: 8}[fraction]


@every_fraction
def test_a_rotation_keeps_the_norm_of_every_pair(fraction: float, drop: Drop) -> None:
    x = torch.randn(9, 16, dtype=torch.float64)
    found = _rotate(x, 100 * torch.arange(9), fraction=fraction, drop=drop)
    torch.testing.assert_close(
        torch.hypot(*found.chunk(2, -1)), torch.hypot(*x.chunk(2, -1)), rtol=1e-12, atol=1e-12
    )


def test_no_fraction_is_no_operation_at_all() -> None:
    x = torch.randn(3, 8)
    assert _rotate(x, torch.arange(3), fraction=0.0) is x


def test_the_number_of_pairs_is_that_of_the_released_model_and_is_rounded_down() -> None:
    assert [rotated_pairs(*given) for given in ((512, 0.25), (256, 1.0), (6, 0.5), (6, 0.99), (2, 0.5))] == [
        64,
        128,
        1,
        2,
        0,
    ]


@pytest.mark.parametrize(
    ("fraction", "drop", "message"),
    [
        (1.5, "low", "between 0"),
        (-0.1, "low", "between 0"),
        (float("nan"), "low", "between 0"),
        (1.0, "high", "drops nothing"),
    ],
)
def test_fractions_that_mean_nothing_are_refused(fraction: float, drop: Drop, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_fraction("somewhere", fraction, drop)


# --- stretching and arithmetic -----------------------------------------------------------------------------------


def test_factor_stretches_positions() -> None:
    x = torch.randn(4, 8, dtype=torch.float64)
    torch.testing.assert_close(_rotate(x, 8 * torch.arange(4), factor=8.0), _rotate(x, torch.arange(4)))


@pytest.mark.parametrize(
    ("dtype", "table"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_tables_are_float32_or_wider_and_the_result_keeps_its_dtype(
    dtype: torch.dtype, table: torch.dtype
) -> None:
    cos, sin = rope_tables(torch.arange(3), 4, base=10_000.0, dtype=dtype)
    assert (cos.dtype, sin.dtype, rotate(torch.randn(3, 4, dtype=dtype), cos, sin).dtype) == (
        table,
        table,
        dtype,
    )


def test_bfloat16_is_rotated_in_float32_and_rounded_once() -> None:
    x = torch.randn(9, 8).bfloat16()
    assert torch.equal(_rotate(x, torch.arange(9)), _rotate(x.float(), torch.arange(9)).bfloat16())


# --- tables that are kept ----------------------------------------------------------------------------------------


def _same(found: tuple[torch.Tensor, torch.Tensor], positions: torch.Tensor, dtype: torch.dtype) -> None:
    for a, b in zip(found, rope_tables(positions, 8, base=100.0, dtype=dtype), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("start, tokens", [(0, 5), (0, 1), (7, 1), (8, 9), (1023, 3)])
def test_kept_tables_are_those_that_would_be_built(start: int, tokens: int, dtype: torch.dtype) -> None:
    x = torch.zeros(2, tokens, 8, dtype=dtype)
    for _ in range(2):
        _same(rope_tables_of(x, 8, start=start, base=100.0), torch.arange(start, start + tokens), dtype)


def test_positions_and_documents_build_their_own_tables() -> None:
    x, ids = torch.zeros(1, 5, 8), torch.tensor([[1, 1, 2, 2, 2]])
    rope_tables_of(x, 8, base=100.0)
    _same(rope_tables_of(x, 8, segments=ids, base=100.0), torch.tensor([[0, 1, 0, 1, 2]]), x.dtype)
    elsewhere = torch.tensor([[9, 8, 7, 6, 5]])
    _same(rope_tables_of(x, 8, positions=elsewhere, base=100.0), elsewhere, x.dtype)


def test_options_that_determine_a_table_are_not_mixed_up() -> None:
    x = torch.zeros(1, 5, 8)
    tables = [
        rope_tables_of(x, 8, base=base, factor=factor, fraction=fraction, drop=drop)[1]
        for base, factor, fraction, drop in (
            (100.0, 1.0, 0.5, "low"),
            (100.0, 1.0, 0.5, "high"),
            (100.0, 2.0, 0.5, "low"),
            (90.0, 1.0, 0.5, "high"),
        )
    ]
    assert not any(torch.equal(a, b) for i, a in enumerate(tables) for b in tables[:i])


def test_inference_builds_tables_that_training_can_use() -> None:
    x = torch.randn(1, 11, 8, requires_grad=True)
    with torch.inference_mode():
        rope_tables_of(x, 8, base=17.0)
    cos, sin = rope_tables_of(x, 8, base=17.0)
    assert not cos.is_inference()
    rotate(x, cos, sin).sum().backward()


def test_shapes_traces_and_transforms_leave_nothing_behind() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        rope_tables_of(torch.zeros(1, 6, 8), 8, base=19.0)
    rope_tables_of(torch.zeros(1, 6, 8, device="meta"), 8, base=19.0)
    torch.func.grad(lambda x: rotate(x, *rope_tables_of(x, 8, base=19.0)).sum())(torch.zeros(1, 6, 8))
    for table in rope_tables_of(torch.zeros(1, 6, 8), 8, base=19.0):
        assert type(table) is torch.Tensor and table.device.type == "cpu" and not table.requires_grad


def test_only_a_bounded_number_of_tables_of_bounded_size_is_kept() -> None:
    for i in range(2 * TABLES):
        rope_tables_of(torch.zeros(1, 3, 8), 8, base=50.0 + i)
    assert counted_tables.cache_info().currsize <= TABLES
    before = counted_tables.cache_info()
    rope_tables_of(torch.zeros(1, 1, 8), 8, start=LARGEST_TABLE, base=50.0)
    assert counted_tables.cache_info() == before


@pytest.mark.parametrize(("fraction", "drop"), [(1.0, "low"), (0.5, "low"), (0.5, "high")])
def test_rotation_by_hand_has_the_gradients_of_the_formula(fraction: float, drop: Drop) -> None:
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64).transpose(1, 2).requires_grad_()
    tables = rope_tables(torch.arange(5), 8, base=9.0, fraction=fraction, drop=drop, dtype=x.dtype)
    with use_implementation("reference"):
        expected = rotate(x, *tables, drop=drop)
    y = rotate(x, *tables, drop=drop)
    g = torch.randn_like(y)
    torch.testing.assert_close(y, expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(
        *(torch.autograd.grad(each, x, g)[0] for each in (y, expected)), rtol=1e-14, atol=1e-14
    )
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, *tables, drop=drop), (x,))
