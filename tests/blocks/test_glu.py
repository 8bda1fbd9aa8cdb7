"""GeGLU: the formula, and the tanh form of GELU that ports get wrong."""

from __future__ import annotations

from math import pi

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from blocks.channel.glu import GeGLU, GeGLUConfig
from blocks.dispatch import use_implementation
from blocks.errors import ConfigError
from blocks.ops.geglu import formula, geglu


@pytest.fixture
def block() -> GeGLU:
    torch.manual_seed(0)
    return GeGLU(GeGLUConfig(width=6, ffn_width=10)).double()


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / pi) ** 0.5 * (x + 0.044715 * x**3)))


def test_output_is_down_of_gated_up(block: GeGLU) -> None:
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    gate, up, down = block.gate.weight, block.up.weight, block.down.weight
    torch.testing.assert_close(
        block(x), (_gelu_tanh(x @ gate.T) * (x @ up.T)) @ down.T, rtol=1e-12, atol=1e-12
    )


def test_gelu_is_the_tanh_form_and_not_the_exact_one(block: GeGLU) -> None:
    x = 3 * torch.randn(50, 6, dtype=torch.float64)
    exact = block.down(torch.nn.functional.gelu(block.gate(x)) * block.up(x))
    assert (block(x) - exact).abs().max() > 1e-5


def test_gradients_are_right(block: GeGLU) -> None:
    assert gradcheck(block, (torch.randn(2, 6, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize("rows", [1, 63, 64, 513, 1025])
def test_rows_in_chunks_equal_the_formula_in_every_gradient(rows: int) -> None:
    shapes = ((rows, 5), (11, 5), (11, 5), (5, 11))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    inputs[0] = torch.randn(5, rows, dtype=torch.float64).mT.requires_grad_()  # strided rows
    outcomes = []
    for function in (geglu, formula):
        y = function(*inputs)
        outcomes.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for ours, expected in zip(*outcomes, strict=True):
        assert (ours - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_chunks_have_first_and_second_derivatives() -> None:
    shapes = ((70, 3), (4, 3), (4, 3), (3, 4))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert gradcheck(geglu, inputs, fast_mode=True)
    assert gradgradcheck(geglu, inputs, fast_mode=True)


def test_frozen_weights_get_no_gradient_and_the_input_the_same() -> None:
    x = torch.randn(70, 3, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(shape, dtype=torch.float64) for shape in ((4, 3), (4, 3), (3, 4))]
    (ours,), (expected,) = (
        torch.autograd.grad(function(x, *weights).sum(), [x]) for function in (geglu, formula)
    )
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_and_narrow_weights_take_the_formula_itself(dtype: torch.dtype) -> None:
    inputs = [torch.randn(shape, dtype=dtype) for shape in ((70, 3), (4, 3), (4, 3), (3, 4))]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(geglu(*inputs), formula(*inputs)) and geglu(*inputs).dtype == torch.bfloat16


def test_no_more_is_kept_for_the_backward_pass_than_by_autograd() -> None:
    inputs = [torch.randn(shape).requires_grad_() for shape in ((600, 8), (32, 8), (32, 8), (8, 32))]
    sizes = []
    for function in (geglu, formula):
        stored: dict[int, int] = {}

        def pack(t: torch.Tensor, stored: dict[int, int] = stored) -> torch.Tensor:
            stored[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with use_implementation(""), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = function(*inputs)
        sizes.append(sum(stored.values()))
        del y
    assert sizes[0] < sizes[1]


def test_cost_is_two_flops_per_weight_and_token(block: GeGLU) -> None:
    assert block.flops(5) == 2 * 5 * sum(p.numel() for p in block.parameters())
    assert sum(p.numel() for p in block.parameters()) == 3 * 6 * 10
    assert block.cost(5).elementwise == 10 * 5 * 10


def test_empty_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="ffn_width must be at least 1"):
        GeGLUConfig(width=4, ffn_width=0)
