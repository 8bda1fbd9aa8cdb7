"""The dense baseline: its map, its start, its cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.errors import ConfigError
from blocks.linear import Linear, LinearConfig, dense


@settings(deadline=None, max_examples=20)
@given(
    i=st.integers(1, 17),
    o=st.integers(1, 17),
    bias=st.booleans(),
    lead=st.lists(st.integers(1, 3), max_size=3),
)
def test_every_leading_shape_gets_the_same_matrix(i: int, o: int, bias: bool, lead: list[int]) -> None:
    linear = Linear(LinearConfig(in_features=i, out_features=o, bias=bias)).double()
    x = torch.randn(*lead, i, dtype=torch.float64)
    offset = linear.bias if linear.bias is not None else 0
    torch.testing.assert_close(
        linear(x), (x[..., None, :] * linear.weight).sum(-1) + offset, rtol=1e-12, atol=1e-12
    )


def test_weights_start_with_variance_one_over_fan_in_and_zero_bias() -> None:
    torch.manual_seed(0)
    linear = Linear(LinearConfig(in_features=256, out_features=512))
    # standard error of a standard deviation over n numbers: 1/sqrt(2n) = 0.2 %; five of them
    assert linear.weight.std().item() * 16 == pytest.approx(1, rel=0.01)
    assert linear.bias is not None and not linear.bias.any()


@pytest.mark.parametrize("bias", [True, False])
def test_flops_are_two_per_weight_and_token(bias: bool) -> None:
    linear = Linear(LinearConfig(in_features=6, out_features=10, bias=bias))
    assert linear.flops(7) == 2 * 7 * linear.weight.numel()
    assert linear.cost(7).elementwise == (70 if bias else 0)


def test_dense_has_no_bias() -> None:
    assert [name for name, _ in dense(3, 4).named_parameters()] == ["weight"]


def test_empty_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="out_features must be at least 1"):
        LinearConfig(in_features=3, out_features=0)
