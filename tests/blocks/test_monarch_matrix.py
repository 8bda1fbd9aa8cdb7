"""Monarch matrices of any order, rectangular or of higher rank: product, transpose, dense form, counts, initial values."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m2_goldens import close, golden
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from blocks.errors import ConfigError
from blocks.monarch.matrix import (
    MonarchShape,
    balanced_factors,
    dense,
    multiply,
    multiply_reference,
    transpose_multiply,
)
from blocks.ops.monarch import monarch_matmul

digit = st.integers(1, 4)
GOLDENS = [
    "square_n16_f64",
    "square_n16_c128",
    "rect_24_to_30_f64",
    "rect_24_to_15_uneven_f64",
    "expand_12_to_48_f64",
]


@st.composite
def shapes(draw: st.DrawFn) -> MonarchShape:
    order = draw(st.integers(2, 4))
    sides = st.lists(digit, min_size=order, max_size=order).map(tuple)
    return MonarchShape(
        inputs=draw(sides), outputs=draw(sides), rank=draw(st.integers(1, 3)) if order == 2 else 1
    )


def factors_of(shape: MonarchShape, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(torch.randn(size, dtype=dtype) for size in shape.factors)


@settings(deadline=None, max_examples=25)
@given(shape=shapes(), dtype=st.sampled_from([torch.float64, torch.complex128]))
def test_the_fast_product_and_its_gradients_equal_the_definition(
    shape: MonarchShape, dtype: torch.dtype
) -> None:
    inputs = [torch.randn(2, 3, prod(shape.inputs), dtype=dtype), *factors_of(shape, dtype)]
    for tensor in inputs:
        tensor.requires_grad_()
    fast, slow = multiply(inputs[0], inputs[1:]), multiply_reference(inputs[0], inputs[1:])
    close(fast, slow, 1e-13)
    g = torch.randn_like(fast)
    for a, b in zip(torch.autograd.grad(fast, inputs, g), torch.autograd.grad(slow, inputs, g), strict=True):
        close(a, b, 1e-13)


@settings(deadline=None, max_examples=25)
@given(shape=shapes(), dtype=st.sampled_from([torch.float64, torch.complex128]))
def test_product_and_transpose_are_those_of_the_dense_matrix(shape: MonarchShape, dtype: torch.dtype) -> None:
    factors = factors_of(shape, dtype)
    matrix = dense(factors)
    x, y = torch.randn(3, prod(shape.inputs), dtype=dtype), torch.randn(3, prod(shape.outputs), dtype=dtype)
    assert matrix.shape == (prod(shape.outputs), prod(shape.inputs))
    close(multiply(x, factors), x @ matrix.mT, 1e-12)
    close(transpose_multiply(y, factors), y @ matrix, 1e-12)


@pytest.mark.parametrize("name", GOLDENS)
def test_order_two_equals_the_released_product_with_gradients(name: str) -> None:
    g = golden(f"monarch_butterfly_{name}")
    inputs = [g[key].requires_grad_() for key in ("in.x", "in.w1_bfly", "in.w2_bfly")]
    for product in (multiply, multiply_reference):
        y = product(inputs[0], inputs[1:])
        close(y, g["out.y"])
        for gradient, key in zip(
            torch.autograd.grad(y, inputs, g["in.grad_out"]), ("x", "w1_bfly", "w2_bfly"), strict=True
        ):
            close(gradient, g[f"grad.{key}"])
    close(dense(inputs[1:]), g["out.dense_matrix"])


@settings(deadline=None, max_examples=20)
@given(k=digit, l=digit, more=st.integers(1, 3), p=digit, s=digit)
def test_at_order_two_it_is_the_two_factor_product_however_the_hidden_values_are_grouped(
    k: int, l: int, more: int, p: int, s: int
) -> None:
    w1 = torch.randn(k, l * more, p, dtype=torch.float64)
    w2 = torch.randn(l, s, k * more, dtype=torch.float64)
    x = torch.randn(2, k * p, dtype=torch.float64)
    close(multiply(x, (w1, w2)), monarch_matmul(x, w1, w2), 1e-13)


@settings(deadline=None, max_examples=20)
@given(shape=shapes())
def test_every_block_of_the_matrix_has_at_most_the_stated_rank(shape: MonarchShape) -> None:
    matrix = dense(factors_of(shape)).reshape(*shape.outputs, *shape.inputs)
    # block: all input digits but the lowest and the lowest output digit held fixed
    blocks = matrix.movedim(shape.order - 1, 0).flatten(1, shape.order - 1).flatten(2, -2).permute(0, 2, 1, 3)
    assert int(torch.linalg.matrix_rank(blocks, rtol=1e-10).max()) <= shape.rank


@settings(deadline=None, max_examples=20)
@given(shape=shapes(), rows=st.integers(1, 5))
def test_parameters_and_flops_are_those_of_the_counted_product(shape: MonarchShape, rows: int) -> None:
    factors = shape.initial()
    with FlopCounterMode(display=False) as counter:
        multiply(torch.zeros(rows, prod(shape.inputs)), factors)
    assert shape.parameters == sum(f.numel() for f in factors)
    assert shape.flops(rows) == counter.get_total_flops()


@pytest.mark.parametrize("base, order", [(5, 2), (4, 3), (2, 4)])
def test_equal_digits_cost_the_published_p_times_n_to_the_one_plus_one_over_p(base: int, order: int) -> None:
    n = base**order
    assert MonarchShape.square(n, order).parameters == order * n * base


@settings(deadline=None, max_examples=20)
@given(digits=st.lists(digit, min_size=2, max_size=4).map(tuple), rank=st.integers(1, 3))
def test_the_identity_start_is_the_identity(digits: tuple[int, ...], rank: int) -> None:
    shape = MonarchShape(inputs=digits, outputs=digits, rank=rank if len(digits) == 2 else 1)
    assert torch.equal(dense(shape.initial("identity")), torch.eye(prod(digits)))


@settings(deadline=None, max_examples=10)
@given(digits=st.lists(digit, min_size=2, max_size=4).map(tuple))
def test_the_orthogonal_start_is_orthogonal(digits: tuple[int, ...]) -> None:
    matrix = dense(MonarchShape(inputs=digits, outputs=digits).initial("orthogonal", dtype=torch.float64))
    close(matrix @ matrix.mT, torch.eye(prod(digits)), 1e-12)


def test_the_fan_in_start_is_uniform_within_one_over_root_of_a_blocks_inputs() -> None:
    torch.manual_seed(0)
    for factor in MonarchShape(inputs=(64, 16), outputs=(32, 8)).initial():
        bound = factor.shape[-1] ** -0.5
        assert factor.abs().max() <= bound
        assert factor.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


@pytest.mark.parametrize(
    "size, order, digits",
    [(24, 2, (6, 4)), (60, 3, (5, 4, 3)), (768, 2, (32, 24)), (16, 4, (2, 2, 2, 2)), (1, 2, (1, 1))],
)
def test_a_size_falls_into_its_most_even_factors(size: int, order: int, digits: tuple[int, ...]) -> None:
    assert balanced_factors(size, order) == digits


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: MonarchShape.square(13), "13 is not a product of 2 factors"),
        (lambda: MonarchShape(inputs=(4,), outputs=(4,)), "2 or more"),
        (lambda: MonarchShape(inputs=(4, 2), outputs=(4, 2, 1)), "2 or more"),
        (lambda: MonarchShape(inputs=(4, 0), outputs=(4, 2)), "at least 1"),
        (lambda: MonarchShape(inputs=(2, 2, 2), outputs=(2, 2, 2), rank=2), "needs order 2"),
        (lambda: MonarchShape(inputs=(2, 3), outputs=(3, 2)).initial("identity"), "has no identity"),
        (lambda: multiply(torch.zeros(1, 5), MonarchShape.square(6).initial()), "last size of 6, got 5"),
        (
            lambda: multiply(torch.zeros(1, 4), (torch.zeros(2, 3, 2), torch.zeros(2, 3, 4))),
            "gives 6 values, the next takes 8",
        ),
        (
            lambda: multiply(
                torch.zeros(1, 8), [torch.zeros(4, 3, 2), torch.zeros(6, 2, 2), torch.zeros(3, 2, 4)]
            ),
            "not a multiple of the 4",
        ),
    ],
)
def test_what_is_no_monarch_matrix_is_refused_in_one_line(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        make()  # type: ignore[operator]
    assert "\n" not in str(error.value)
