"""The causal polynomial parameterization: the theorem and its conditions against the literal complex path, and the fast form."""

from __future__ import annotations

from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from m2_goldens import close
from torch import Tensor

from blocks.convolution.fft import causal_convolution
from blocks.errors import ConfigError
from blocks.monarch.dft import dft_factors, dft_matrix, digit_reversal
from blocks.monarch.matrix import dense
from blocks.monarch.polynomial import (
    DigitTriangular,
    Factors,
    apply,
    digits_for,
    parameter_count,
    polynomial_product,
    solve,
    unit_lower_triangular,
)
from blocks.monarch.polynomial_reference import coefficient_matrix, doubled, literal_product, monarch_factors

ORDERS = {2: (4, 8), 3: (2, 4, 4)}  # digits (s, b, ..) of n = 32, N = 64
WRONG = 1e-3  # of max |J|: an upper triangle that is rounding has 1e-14, one that leaks has order 1


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def matrix(digits: tuple[int, ...], groups: int = 1, spread: float = 0.5) -> DigitTriangular:
    found = DigitTriangular(digits, groups).double()
    for packed in found.lower:
        torch.nn.init.normal_(packed, std=spread)
    return found


def member(digits: tuple[int, ...], groups: int = 1, spread: float = 0.5) -> list[Tensor]:
    return matrix(digits, groups, spread).factors(prod(digits))


def members(digits: tuple[int, ...], *, same: bool = False) -> list[list[Tensor]]:
    return [member(digits)] * 3 if same else [member(digits) for _ in range(3)]


def identity(digits: tuple[int, ...]) -> list[Tensor]:
    return DigitTriangular(digits, 1).double().factors(prod(digits))


def jacobian(k: Tensor, factors: list[Factors] | list[list[Tensor]]) -> Tensor:
    """dy_i/du_j of the fast form: the product is linear in u, so its columns are its values at the unit vectors."""
    n = k.shape[-1]
    return polynomial_product(torch.eye(n, dtype=k.dtype)[None], k, *factors)[0].mT


def literal_jacobian(k: Tensor, q: list[list[Tensor]]) -> Tensor:
    return literal_product(torch.eye(len(k), dtype=k.dtype), k, *q).mT


def leak(jacobian: Tensor) -> float:
    return (jacobian.triu(1).abs().max() / jacobian.abs().max()).item()


def spread_along_diagonals(jacobian: Tensor) -> float:
    """0 for a Toeplitz matrix."""
    n = len(jacobian)
    return max((d.max() - d.min()).item() for i in range(n) if len(d := jacobian.diagonal(-i)))


digit_sizes = st.lists(st.integers(1, 3), min_size=2, max_size=4).map(tuple)

# --- the literal path and the theorem ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(digits=digit_sizes)
def test_the_fast_form_is_the_literal_complex_path_and_that_is_real(digits: tuple[int, ...]) -> None:
    n = prod(digits)
    u, k, factors = randn(1, 3, n), randn(1, n), members(digits)
    fast, literal = polynomial_product(u, k, *factors)[0], literal_product(u[0], k[0], *map(doubled, factors))
    size = literal.abs().max().item()
    close(literal.imag, torch.zeros_like(fast), 1e-12 * size)
    close(fast, literal.real, 1e-12 * size)


@pytest.mark.parametrize("same", [True, False], ids=["one member", "three members"])
@pytest.mark.parametrize("order", ORDERS)
def test_the_jacobian_is_lower_triangular_and_not_toeplitz(order: int, same: bool) -> None:
    torch.manual_seed(order)
    digits, k = ORDERS[order], randn(1, 32)
    factors = members(digits, same=same)
    for j in (jacobian(k, factors), literal_jacobian(k[0], [doubled(f) for f in factors]).real):
        assert leak(j) <= 1e-12
        assert spread_along_diagonals(j) > 0.1 * j.abs().max()


@pytest.mark.parametrize("order", ORDERS)
def test_the_output_is_causal_in_the_kernel_too(order: int) -> None:
    torch.manual_seed(0)
    digits, u = ORDERS[order], randn(1, 1, 32)
    factors = members(digits)
    by_kernel = torch.autograd.functional.jacobian(
        lambda k: polynomial_product(u, k, *factors).flatten(), randn(1, 32)
    )
    assert leak(by_kernel[:, 0]) <= 1e-12


@pytest.mark.parametrize("order", ORDERS)
def test_identity_members_are_the_dft_and_the_causal_convolution(order: int) -> None:
    n, one = 32, identity(ORDERS[order])
    u, k = randn(2, 3, n), randn(2, n)
    y = polynomial_product(u, k, one, one, one)
    close(y, causal_convolution(u.transpose(0, 1), k).transpose(0, 1), 1e-12)
    direct = [sum(k[:, i, None] * u[..., t - i] for i in range(t + 1)) for t in range(n)]
    close(y, torch.stack(direct, dim=-1), 1e-12)  # type: ignore[arg-type]
    assert torch.equal(coefficient_matrix(doubled(one)), torch.eye(2 * n, dtype=torch.float64))
    j = jacobian(k[:1], [one] * 3)
    assert leak(j) <= 1e-12 and spread_along_diagonals(j) <= 1e-12 * j.abs().max()


@pytest.mark.parametrize("s, b", [(4, 8), (3, 4), (1, 5), (5, 1)])
def test_at_order_two_the_matrix_is_monarch(s: int, b: int) -> None:
    """M = DFT · Q is the product of the two block-diagonal factors whose entries are values of r and of l."""
    q = doubled(member((s, b)))
    literal = dft_matrix(2 * s * b) @ coefficient_matrix(q).to(torch.complex128)
    close(dense(monarch_factors(q)), literal[:, digit_reversal((b, 2 * s))], 1e-12)


# --- the conditions: what may not be dropped, and what may -------------------------------------------------------------


def uncapped(digits: tuple[int, ...]) -> list[Tensor]:
    """Lower triangular top factors without the zero block: degrees of s and more for j < n."""
    factors = member(digits)
    below, size = factors[-1].shape[1], 2 * digits[0]
    full = torch.eye(size, dtype=torch.float64) + 0.5 * randn(1, below, size, size).tril(-1)
    return [*factors[:-1], full]


@pytest.mark.parametrize("who", [1, 2], ids=["kernel", "input"])
@pytest.mark.parametrize("order", ORDERS)
def test_without_the_degree_cap_a_forward_member_leaks_the_future(order: int, who: int) -> None:
    torch.manual_seed(0)
    q = [doubled(f) for f in members(ORDERS[order])]
    q[who] = uncapped(ORDERS[order])
    assert leak(literal_jacobian(randn(32), q).real) > WRONG


@pytest.mark.parametrize("order", ORDERS)
def test_the_output_member_needs_no_cap(order: int) -> None:
    torch.manual_seed(0)
    q = [doubled(f) for f in members(ORDERS[order])]
    q[0] = uncapped(ORDERS[order])
    assert leak(literal_jacobian(randn(32), q)) <= 1e-12


@pytest.mark.parametrize("order", ORDERS)
def test_columns_beyond_n_never_reach_an_output(order: int) -> None:
    torch.manual_seed(0)
    u, k, factors = randn(2, 32), randn(32), members(ORDERS[order])
    beyond = [torch.eye(f[-1].shape[-1], dtype=torch.float64) + randn(*f[-1].shape).tril(-1) for f in factors]
    plain = literal_product(u, k, *map(doubled, factors))
    close(
        literal_product(u, k, *map(doubled, factors, beyond)).real,
        plain.real,
        1e-10 * plain.abs().max().item(),
    )


def test_an_unconstrained_monarch_matrix_leaks_the_future() -> None:
    torch.manual_seed(0)
    m = dense([torch.randn_like(f) for f in dft_factors((8, 8))])
    k, n = randn(32).to(m.dtype), 32
    values = (m[:, :n] @ k)[:, None] * m[:, :n]
    assert leak(torch.linalg.solve(m, values)[:n]) > WRONG


# --- the fast form -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(digits=digit_sizes, groups=st.integers(1, 2), data=st.data())
def test_applying_and_solving_are_those_of_the_dense_triangular_matrix(
    digits: tuple[int, ...], groups: int, data: st.DataObject
) -> None:
    n = prod(digits)
    tokens = data.draw(st.integers(1, n), label="tokens")
    factors, x = member(digits, groups), randn(2 * groups, 3, tokens)
    for g in range(groups):
        a = coefficient_matrix([f[g : g + 1] for f in factors])
        assert not a.triu(1).any() and bool((a.diagonal() == 1).all())
        channels = slice(2 * g, 2 * g + 2)
        close(apply(x, factors)[channels], x[channels] @ a[:tokens, :tokens].mT, 1e-12)
        solved = torch.linalg.solve_triangular(a[:tokens, :tokens], x[channels].mT, upper=False).mT
        close(solve(x, factors)[channels], solved, 1e-11)


@settings(deadline=None, max_examples=25)
@given(digits=digit_sizes, data=st.data())
def test_a_prefix_gives_the_prefix_of_the_output_at_any_length(
    digits: tuple[int, ...], data: st.DataObject
) -> None:
    """Lengths that are no multiple of the lower digits included; the shorter product uses the leading blocks only."""
    n = prod(digits)
    tokens = data.draw(st.integers(1, n), label="tokens")
    a = [matrix(digits) for _ in range(3)]
    u, k = randn(1, 2, n), randn(1, n)
    whole = polynomial_product(u, k, *(m.factors(n) for m in a))
    close(polynomial_product(u[..., :tokens], k, *(m.factors(tokens) for m in a)), whole[..., :tokens], 1e-11)


@settings(deadline=None, max_examples=15)
@given(digits=digit_sizes)
def test_with_one_shared_member_the_product_is_a_commutative_ring_with_identity(
    digits: tuple[int, ...],
) -> None:
    n, a = prod(digits), member(digits, spread=0.3)

    def product(x: Tensor, y: Tensor) -> Tensor:
        return polynomial_product(x[None, None], y[None], a, a, a)[0, 0]

    x, y, z = randn(n), randn(n), randn(n)
    one = solve(F.pad(torch.ones(1, 1, dtype=torch.float64), (0, n - 1)), a)[0]
    close(product(x, y), product(y, x), 1e-11)
    close(product(product(x, y), z), product(x, product(y, z)), 1e-10)
    close(product(x, one), x, 1e-11)


def test_moving_scale_from_one_factor_to_the_next_changes_nothing() -> None:
    """The gauge that unit diagonals fix: column j0 of Lambda by c, Gamma_{j0} by 1/c."""
    lower, gamma = member((4, 8))
    scale = torch.rand(8, dtype=torch.float64) + 0.5
    close(
        coefficient_matrix([lower * scale, gamma / scale[:, None, None]]),
        coefficient_matrix([lower, gamma]),
        1e-14,
    )


@settings(deadline=None, max_examples=20)
@given(digits=digit_sizes, data=st.data())
def test_a_row_is_the_row_of_the_dense_matrix(digits: tuple[int, ...], data: st.DataObject) -> None:
    a = matrix(digits, groups=2)
    t = data.draw(st.integers(0, prod(digits) - 1), label="t")
    for g in range(2):
        close(
            a.row(t)[g],
            coefficient_matrix([f[g : g + 1] for f in a.factors(prod(digits))])[t, : t + 1],
            1e-14,
        )


def test_gradients_of_every_argument_are_those_of_the_function() -> None:
    torch.manual_seed(0)
    a = [matrix((2, 3)), matrix((2, 3)), matrix((2, 3))]
    packed = [p.detach().clone().requires_grad_() for m in a for p in m.lower]

    def product(u: Tensor, k: Tensor, *entries: Tensor) -> Tensor:
        factors = [
            [unit_lower_triangular(entries[2 * i], 3), unit_lower_triangular(entries[2 * i + 1], 2)]
            for i in range(3)
        ]
        return polynomial_product(u, k, *factors)

    inputs = [randn(1, 2, 6).requires_grad_(), randn(1, 6).requires_grad_(), *packed]
    assert torch.autograd.gradcheck(product, inputs)


@pytest.mark.parametrize("order", [2, 3])
def test_single_precision_stays_within_a_millionth_at_4096_tokens(order: int) -> None:
    torch.manual_seed(0)
    digits = digits_for(4096, order)
    a = [matrix(digits, spread=0.3 * digits[-1] ** -0.5) for _ in range(3)]
    u, k = randn(1, 1, 4096), randn(1, 4096)
    wide = polynomial_product(u, k, *(m.factors(4096) for m in a))
    narrow = polynomial_product(u.float(), k.float(), *([f.float() for f in m.factors(4096)] for m in a))
    assert ((narrow - wide).norm() / wide.norm()).item() <= 1e-6


@pytest.mark.parametrize("size, bound", [(64, 3.0), (1024, 3.0)])
def test_matrices_of_small_entries_are_well_conditioned(size: int, bound: float) -> None:
    """Entries N(0, 0.3²/b): condition numbers of 2.2 to 2.4 at 64 to 1024 points, whatever the length."""
    torch.manual_seed(0)
    digits = digits_for(size, 2)
    assert (
        torch.linalg.cond(coefficient_matrix(member(digits, spread=0.3 * digits[-1] ** -0.5))).item() < bound
    )


# --- sizes -------------------------------------------------------------------------------------------------------------


def test_parameters_are_the_entries_below_the_diagonals() -> None:
    """b = s = 32: b(b-1)/2 + b·s(s-1)/2 = 16,368; a group holds one set, the identity at the start."""
    assert parameter_count((32, 32)) == 16_368
    for digits in ((32, 32), (3, 4, 5), (1, 2)):
        built = DigitTriangular(digits, groups=3)
        assert sum(p.numel() for p in built.parameters()) == 3 * parameter_count(digits)
        assert torch.equal(coefficient_matrix(built.factors(prod(digits))), torch.eye(prod(digits)))


@pytest.mark.parametrize(
    "tokens, order, base, digits",
    [
        (1024, 2, None, (32, 32)),
        (65, 2, None, (8, 9)),
        (65, 3, None, (3, 5, 5)),
        (65, 2, 16, (5, 16)),
        (4096, 3, None, (16, 16, 16)),
        (1, 2, None, (1, 2)),
    ],
)
def test_digits_cover_the_tokens_evenly(
    tokens: int, order: int, base: int | None, digits: tuple[int, ...]
) -> None:
    assert digits_for(tokens, order, base) == digits
    assert prod(digits) >= tokens > prod(digits) - prod(digits[1:])


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="order must be at least 2"):
        digits_for(16, 1)
    with pytest.raises(ConfigError, match="base must be at least 2"):
        digits_for(16, 2, 1)
    with pytest.raises(ConfigError, match="exceed the 12 this matrix"):
        DigitTriangular((3, 4), 1).factors(13)
    with pytest.raises(ConfigError, match="exceed the 12 these factors"):
        apply(torch.zeros(1, 13), identity((3, 4)))
