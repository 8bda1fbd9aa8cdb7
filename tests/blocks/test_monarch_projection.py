"""Dense to Monarch: optimal, exact where it can be, and the DFT among what is recovered."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m2_goldens import close, golden
from torch import Tensor

from blocks.errors import ConfigError
from blocks.monarch.dft import dft_factors, dft_matrix, digit_reversal
from blocks.monarch.matrix import MonarchShape, balanced_factors, dense, multiply
from blocks.monarch.monarch_linear import MonarchLinear, MonarchLinearConfig
from blocks.monarch.projection import error_of, project, project_pair

digit = st.integers(1, 5)
pairs = st.tuples(digit, digit)
GOLDENS = [
    "square_n16_f64",
    "square_n16_c128",
    "rect_24_to_30_f64",
    "rect_24_to_15_uneven_f64",
    "expand_12_to_48_f64",
]
COMPOSITE = [4, 6, 12, 15, 16, 36, 49, 60, 64, 100]


def randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


@settings(deadline=None, max_examples=25)
@given(
    inputs=pairs,
    outputs=pairs,
    rank=st.integers(1, 3),
    dtype=st.sampled_from([torch.float64, torch.complex128]),
)
def test_the_error_is_the_sum_of_the_singular_values_left_out(
    inputs: tuple[int, int], outputs: tuple[int, int], rank: int, dtype: torch.dtype
) -> None:
    """Eckart-Young, block by block: no matrix with blocks of this rank is nearer."""
    shape, matrix = (
        MonarchShape(inputs=inputs, outputs=outputs, rank=rank),
        randn(prod(outputs), prod(inputs), dtype=dtype),
    )
    close((matrix - dense(project(matrix, shape))).norm(), error_of(matrix, shape), 1e-12)


@pytest.mark.parametrize("rank", [1, 2])
def test_no_perturbation_of_the_projection_is_nearer(rank: int) -> None:
    torch.manual_seed(0)
    shape, matrix = MonarchShape(inputs=(4, 5), outputs=(3, 4), rank=rank), randn(12, 20)
    best = project(matrix, shape)
    least = (matrix - dense(best)).norm()
    for scale in (1e-6, 1e-3, 1e-1, 1.0):
        for _ in range(20):
            moved = [factor + scale * torch.randn_like(factor) for factor in best]
            assert (matrix - dense(moved)).norm() >= least


def test_alternating_least_squares_comes_down_to_the_projection_and_no_further() -> None:
    """Another road to the optimum: with one factor fixed the other is a linear least-squares problem."""
    torch.manual_seed(1)
    shape, matrix = MonarchShape(inputs=(3, 4), outputs=(4, 3)), randn(12, 12)
    grid = matrix.reshape(4, 3, 3, 4).permute(2, 1, 0, 3)  # (k, l, s, p)
    right = randn(3, 3, 4)  # w1 (k, l, p)
    for _ in range(500):
        left = torch.einsum("klsp,klp->kls", grid, right) / right.square().sum(-1, keepdim=True)
        right = torch.einsum("klsp,kls->klp", grid, left) / left.square().sum(-1, keepdim=True)
    found = (grid - torch.einsum("kls,klp->klsp", left, right)).norm()
    close(found, error_of(matrix, shape), 1e-9)


@settings(deadline=None, max_examples=25)
@given(
    k=st.integers(1, 4),
    q=st.integers(1, 6),
    p=st.integers(1, 5),
    s=st.integers(1, 5),
    data=st.data(),
    dtype=st.sampled_from([torch.float64, torch.complex128]),
)
def test_a_two_factor_product_of_any_shapes_is_recovered(
    k: int, q: int, p: int, s: int, data: st.DataObject, dtype: torch.dtype
) -> None:
    length = data.draw(st.sampled_from([n for n in range(1, k * q + 1) if k * q % n == 0]), label="L")
    first, second = (k, q, p), (length, s, k * q // length)
    matrix = dense((randn(*first, dtype=dtype), randn(*second, dtype=dtype)))
    close(dense(project_pair(matrix, first, second)), matrix, 1e-12)


@settings(deadline=None, max_examples=15)
@given(order=st.integers(2, 4), data=st.data())
def test_a_monarch_matrix_of_any_order_is_recovered(order: int, data: st.DataObject) -> None:
    side = st.lists(st.integers(1, 3), min_size=order, max_size=order).map(tuple)
    shape = MonarchShape(inputs=data.draw(side), outputs=data.draw(side))
    matrix = dense([randn(*size) for size in shape.factors])
    close(dense(project(matrix, shape)), matrix, 1e-11)


def test_at_order_three_the_error_stays_within_root_two_of_the_least_rank_one_error() -> None:
    """Each of the p - 1 steps errs by at most the distance to the nearest matrix, and the errors are orthogonal."""
    torch.manual_seed(0)
    shape = MonarchShape(inputs=(3, 2, 3), outputs=(2, 3, 3))
    factors = [randn(*size) for size in shape.factors]
    for noise in (1e-3, 1e-2, 1e-1):
        exact = dense(factors)
        matrix = exact + noise * torch.randn_like(exact)
        assert (matrix - dense(project(matrix, shape))).norm() <= 2**0.5 * (matrix - exact).norm()


@pytest.mark.parametrize(
    "name",
    [
        "square_n16_f64",
        "square_n16_c128",
        "rect_24_to_30_f64",
        "rect_24_to_15_uneven_f64",
        "expand_12_to_48_f64",
    ],
)
def test_released_products_are_recovered_from_their_dense_matrices(name: str) -> None:
    g = golden(f"monarch_butterfly_{name}")
    w1, w2 = project_pair(g["out.dense_matrix"], g["in.w1_bfly"].shape, g["in.w2_bfly"].shape)
    close(dense((w1, w2)), g["out.dense_matrix"])


# --- the Fourier transform ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", COMPOSITE)
def test_the_dft_of_a_composite_size_is_recovered_once_its_columns_are_dealt_out(points: int) -> None:
    digits = balanced_factors(points)
    columns = digit_reversal(digits)  # at order 2: the transpose of the (P, K) grid
    matrix = dft_matrix(points)[:, columns]
    close(dense(project(matrix, MonarchShape(inputs=digits, outputs=digits))), matrix, 1e-12)


@settings(deadline=None, max_examples=20)
@given(digits=st.lists(st.integers(1, 5), min_size=2, max_size=4))
def test_the_factors_written_down_are_the_dft(digits: list[int]) -> None:
    x, columns = torch.randn(2, prod(digits), dtype=torch.complex128), digit_reversal(digits)
    close(multiply(x[:, columns], dft_factors(digits)), torch.fft.fft(x), 1e-12)


def test_the_textbook_factors_of_a_square_size_are_these() -> None:
    """L_{k0}[k1, j0] = omega_N^{k0 j0} omega_b^{k1 j0} and the b-point DFT in every block of R, N = b²."""
    b = 4
    first, second = dft_factors((b, b))
    index = torch.arange(b, dtype=torch.float64)
    k0, k1, j0 = index[:, None, None], index[None, :, None], index[None, None, :]
    close(first, dft_matrix(b).expand(b, b, b), 1e-14)
    close(second, torch.exp(-2j * torch.pi * (k0 * j0 / b**2 + k1 * j0 / b)), 1e-14)


# --- the layer ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(i=st.integers(4, 14), o=st.integers(4, 14), blocks=st.integers(1, 4))
def test_a_layer_is_recovered_from_its_dense_weight(i: int, o: int, blocks: int) -> None:
    layer = MonarchLinear(MonarchLinearConfig(in_features=i, out_features=o, blocks=blocks)).double()
    twin = MonarchLinear.from_dense(layer.dense_weight(), layer.bias, blocks=blocks)
    x = randn(3, i)
    close(twin(x), layer(x), 1e-12)


@settings(deadline=None, max_examples=20)
@given(i=st.integers(4, 14), o=st.integers(4, 14), blocks=st.integers(1, 4))
def test_no_trained_layer_is_nearer_than_the_projected_one(i: int, o: int, blocks: int) -> None:
    weight = randn(o, i)
    layer = MonarchLinear.from_dense(weight, blocks=blocks)
    error = (layer.dense_weight() - weight).square().sum()
    assert layer.bias is None
    for gradient in torch.autograd.grad(error, list(layer.parameters())):
        assert (
            gradient.abs().max() < 1e-10
        )  # a stationary point: the optimum is proven by its singular values above
    assert error <= weight.square().sum()


def test_the_dense_twin_of_a_layer_is_the_same_function() -> None:
    layer = MonarchLinear(MonarchLinearConfig(in_features=10, out_features=7)).double()
    x = randn(2, 5, 10)
    close(layer.dense()(x), layer(x), 1e-13)
    bare = MonarchLinear(MonarchLinearConfig(in_features=10, out_features=7, bias=False)).double()
    assert bare.dense().bias is None


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="make a 6 x 4 matrix, got"):
        project_pair(randn(5, 4), (2, 3, 2), (3, 2, 2))
    with pytest.raises(ConfigError, match="gives 6 values, the second takes 8"):
        project_pair(randn(6, 4), (2, 3, 2), (2, 3, 4))
    with pytest.raises(ConfigError, match="does not fit"):
        project(randn(9, 8), MonarchShape.square(8, 3))
    with pytest.raises(ConfigError, match="known for order 2"):
        error_of(randn(8, 8), MonarchShape.square(8, 3))
