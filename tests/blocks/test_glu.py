"""GeGLU: the formula, and the tanh form of GELU that ports get wrong."""

from __future__ import annotations

from math import pi

import pytest
import torch
from torch.autograd import gradcheck

from blocks.channel.glu import GeGLU, GeGLUConfig
from blocks.errors import ConfigError


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


def test_cost_is_two_flops_per_weight_and_token(block: GeGLU) -> None:
    assert block.flops(5) == 2 * 5 * sum(p.numel() for p in block.parameters())
    assert sum(p.numel() for p in block.parameters()) == 3 * 6 * 10
    assert block.cost(5).elementwise == 10 * 5 * 10


def test_empty_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="ffn_width must be at least 1"):
        GeGLUConfig(width=4, ffn_width=0)
