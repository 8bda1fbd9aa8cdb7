"""Block-diagonal products and the linear layer made of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m2_goldens import close, golden

from arch_lab.accounting import count_forward
from blocks.errors import ConfigError
from blocks.monarch.block_diagonal import BlockDiagonalLinear, BlockDiagonalLinearConfig
from blocks.ops.block_diagonal import FEW_ROWS, block_diagonal_matmul
from blocks.ops.block_diagonal import reference as block_diagonal_matmul_reference

sizes = st.integers(1, 7)


def layer(i: int, o: int, k: int, *, shuffle: bool = False, bias: bool = True) -> BlockDiagonalLinear:
    return BlockDiagonalLinear(
        BlockDiagonalLinearConfig(in_features=i, out_features=o, blocks=k, shuffle=shuffle, bias=bias)
    ).double()


@settings(deadline=None, max_examples=25)
@given(
    k=sizes,
    q=sizes,
    p=sizes,
    lead=st.lists(st.integers(1, 3), max_size=3),
    dtype=st.sampled_from([torch.float64, torch.complex128]),
)
def test_the_batched_product_and_its_gradients_equal_the_definition(
    k: int, q: int, p: int, lead: list[int], dtype: torch.dtype
) -> None:
    x = torch.randn(*lead, k * p, dtype=dtype, requires_grad=True)
    w = torch.randn(k, q, p, dtype=dtype, requires_grad=True)
    fast, slow = block_diagonal_matmul(x, w), block_diagonal_matmul_reference(x, w)
    close(fast, slow, 1e-13)
    g = torch.randn_like(fast)
    for a, b in zip(torch.autograd.grad(fast, (x, w), g), torch.autograd.grad(slow, (x, w), g), strict=True):
        close(a, b, 1e-13)


@pytest.mark.parametrize("name", ["blockdiag_multiply_f64", "blockdiag_multiply_c128"])
def test_the_product_equals_the_released_one_with_gradients(name: str) -> None:
    g = golden(name)
    x, w = g["in.x"].requires_grad_(), g["in.weight"].requires_grad_()
    for product in (block_diagonal_matmul, block_diagonal_matmul_reference):
        y = product(x, w)
        close(y, g["out.y"])
        dx, dw = torch.autograd.grad(y, (x, w), g["in.grad_out"])
        close(dx, g["grad.x"])
        close(dw, g["grad.weight"])


@pytest.mark.parametrize(
    "name, i, o, shuffle", [("div", 12, 20, False), ("pad", 10, 7, False), ("shuffle", 12, 20, True)]
)
def test_the_layer_equals_the_released_one(name: str, i: int, o: int, shuffle: bool) -> None:
    g, linear = golden(f"blockdiag_linear_{name}"), layer(i, o, 4, shuffle=shuffle)
    linear.load_state_dict({"weight": g["param.weight"], "bias": g["param.bias"]})
    close(linear(g["in.x"]), g["out.y"])
    close(linear.dense_weight(), g["out.dense_weight"])
    assert linear.weight.numel() / (i * o) == pytest.approx(g["cfg.saving"].item())


def test_float32_stays_within_single_precision_of_the_released_layer() -> None:
    g, linear = golden("blockdiag_linear_div"), layer(12, 20, 4)
    linear.load_state_dict({"weight": g["param.weight"], "bias": g["param.bias"]})
    close(linear.float()(g["in.x"].float()), g["out.y"], 1e-4)


@settings(deadline=None, max_examples=25)
@given(k=st.integers(1, 5), i=st.integers(5, 17), o=st.integers(5, 17), bias=st.booleans())
def test_the_layer_is_its_dense_matrix_with_zeros_outside_the_blocks(
    k: int, i: int, o: int, bias: bool
) -> None:
    linear = layer(i, o, k, bias=bias)
    dense, x = linear.dense_weight(), torch.randn(3, i, dtype=torch.float64)
    offset = linear.bias if linear.bias is not None else 0
    close(linear(x), x @ dense.mT + offset, 1e-12)
    row, column = torch.arange(o) // -(-o // k), torch.arange(i) // -(-i // k)
    assert not dense[row[:, None] != column[None, :]].any()


@settings(deadline=None, max_examples=20)
@given(k=st.integers(1, 4), i=st.integers(4, 13), o=st.integers(4, 13), tokens=st.integers(1, 9))
def test_flops_are_two_per_weight_and_token_padding_included(k: int, i: int, o: int, tokens: int) -> None:
    linear = layer(i, o, k)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        linear(torch.zeros(tokens, i, dtype=torch.float64))
    assert linear.flops(tokens) == counter.get_total_flops() == 2 * tokens * k * -(-i // k) * -(-o // k)


def test_weights_start_uniform_within_one_over_root_of_the_block_width() -> None:
    torch.manual_seed(0)
    weight = layer(256, 512, 4).weight
    # a uniform draw on ±b has standard deviation b/sqrt(3); b = 1/sqrt(256/4)
    assert weight.abs().max() <= 1 / 8
    assert weight.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.02)


@pytest.mark.parametrize(
    "options", [{"blocks": 5}, {"blocks": 0}, {"out_features": 0}, {"blocks": 3, "shuffle": True}]
)
def test_impossible_shapes_are_refused_in_one_line(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError) as error:
        BlockDiagonalLinearConfig(**{"in_features": 4, "out_features": 8, **options})
    assert "\n" not in str(error.value)


def test_a_wrong_last_size_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="last size of 6, got 5"):
        block_diagonal_matmul(torch.zeros(2, 5), torch.zeros(2, 4, 3))


@pytest.mark.parametrize("rows", [FEW_ROWS - 1, FEW_ROWS, 131])
@pytest.mark.parametrize("biased", [False, True])
def test_the_operator_for_many_rows_and_its_gradients_equal_the_definition(rows: int, biased: bool) -> None:
    x, w = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((rows, 12), (4, 5, 3)))
    bias = torch.randn(20, dtype=torch.float64, requires_grad=True) if biased else None
    inputs = [t for t in (x, w, bias) if t is not None]
    fast, slow = block_diagonal_matmul(x, w, bias), block_diagonal_matmul_reference(x, w)
    slow = slow if bias is None else slow + bias
    close(fast, slow, 1e-13)
    g = torch.randn_like(fast)
    for a, b in zip(torch.autograd.grad(fast, inputs, g), torch.autograd.grad(slow, inputs, g), strict=True):
        close(a, b, 1e-13)


@settings(deadline=None, max_examples=15)
@given(k=sizes, q=sizes, p=sizes, rows=st.integers(FEW_ROWS, FEW_ROWS + 9))
def test_the_operator_executes_the_flops_it_registers(k: int, q: int, p: int, rows: int) -> None:
    x, w = torch.zeros(rows, k * p), torch.zeros(k, q, p)
    definition = torch.zeros(k, rows, p)
    assert count_forward(lambda: block_diagonal_matmul(x, w)) == count_forward(
        lambda: torch.bmm(definition, w.mT)
    )


def test_second_derivatives_survive_a_numeric_check() -> None:
    x, w = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((FEW_ROWS, 2), (2, 1, 1))
    )
    assert torch.autograd.gradgradcheck(lambda x, w: block_diagonal_matmul(x, w).square(), (x, w))


@pytest.mark.parametrize("rows", [2, FEW_ROWS])
def test_autocast_is_followed_at_every_number_of_rows(rows: int) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(4, 4, 2).float()(torch.randn(rows, 4)).dtype == torch.bfloat16
