"""The soft-cap of logits is c·tanh(x/c), and so is its gradient."""

from __future__ import annotations

import pytest
import torch

from blocks.softcap import soft_cap


@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_it_is_the_formula_and_passes_the_numerical_gradient_check(cap: float) -> None:
    x = (torch.randn(3, 5, dtype=torch.float64) * cap).requires_grad_()
    torch.testing.assert_close(soft_cap(x, cap), cap * torch.tanh(x / cap))
    assert torch.autograd.gradcheck(lambda x: soft_cap(x, cap), (x,))


def test_half_precision_is_rounded_once_at_the_end() -> None:
    x = torch.randn(64).mul(40).bfloat16()
    assert torch.equal(soft_cap(x, 30.0), (30 * torch.tanh(x.float() / 30)).bfloat16())


def test_the_input_is_left_as_it_was() -> None:
    x = torch.randn(7)
    before = x.clone()
    soft_cap(x, 1.0)
    assert torch.equal(x, before)


def test_it_compiles_without_a_break() -> None:
    x = torch.randn(4, requires_grad=True)
    y = torch.compile(lambda x: soft_cap(x, 2.0), backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(
        torch.autograd.grad(y.sum(), x), torch.autograd.grad(soft_cap(x, 2.0).sum(), x)
    )
    torch._dynamo.reset()
