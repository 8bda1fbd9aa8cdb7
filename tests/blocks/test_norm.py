"""Norms: the formula, the dtype they are computed in, and their cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.dispatch import use_implementation
from blocks.errors import ConfigError
from blocks.norm import (
    GainRMSNorm,
    GainRMSNormConfig,
    LayerNorm,
    LayerNormConfig,
    RMSNorm,
    RMSNormConfig,
    UnitRMSNorm,
    UnitRMSNormConfig,
)


@settings(deadline=None, max_examples=25)
@given(width=st.integers(1, 33), tokens=st.integers(1, 9), seed=st.integers(0, 2**16))
def test_rms_norm_is_x_over_its_root_mean_square_times_one_plus_w(width: int, tokens: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    norm = RMSNorm(RMSNormConfig(width=width)).double()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(width, generator=generator))
    x = torch.randn(2, tokens, width, generator=generator, dtype=torch.float64)
    for row, got in zip(x.reshape(-1, width), norm(x).reshape(-1, width), strict=True):
        root = (sum(float(v) ** 2 for v in row) / width + 1e-6) ** 0.5
        torch.testing.assert_close(got, row / root * (1 + norm.weight), rtol=1e-12, atol=1e-12)


def test_layer_norm_output_has_mean_zero_and_variance_one_at_initialisation() -> None:
    y = LayerNorm(LayerNormConfig(width=64)).double()(3 + 5 * torch.randn(7, 64, dtype=torch.float64))
    torch.testing.assert_close(y.mean(-1), torch.zeros(7, dtype=torch.float64), atol=1e-12, rtol=0)
    # eps 1e-5 against a variance of 25 leaves 4e-7
    torch.testing.assert_close(
        y.var(-1, unbiased=False), torch.ones(7, dtype=torch.float64), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    "norm",
    [
        RMSNorm(RMSNormConfig(width=32)),
        GainRMSNorm(GainRMSNormConfig(width=32)),
        LayerNorm(LayerNormConfig(width=32)),
    ],
    ids=["rms_norm", "rms_norm_gain", "layer_norm"],
)
def test_bfloat16_input_is_normed_in_float32_and_rounded_once(
    norm: RMSNorm | GainRMSNorm | LayerNorm,
) -> None:
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        norm.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
        assert torch.equal(norm(x), norm(x.float()).bfloat16())


def test_both_gains_start_as_the_norm_without_any() -> None:
    x = torch.randn(3, 5, requires_grad=True)  # else the norm without parameters takes torch's own operation
    plain = UnitRMSNorm(UnitRMSNormConfig(width=5))
    offset, gain = RMSNorm(RMSNormConfig(width=5)), GainRMSNorm(GainRMSNormConfig(width=5))
    assert torch.equal(offset.weight, torch.zeros(5)) and torch.equal(gain.weight, torch.ones(5))
    assert torch.equal(offset(x), plain(x)) and torch.equal(gain(x), plain(x))
    assert list(plain.parameters()) == []


def test_a_gain_of_w_is_an_offset_gain_of_w_minus_one() -> None:
    x = torch.randn(3, 5)
    offset, gain = RMSNorm(RMSNormConfig(width=5)), GainRMSNorm(GainRMSNormConfig(width=5))
    with torch.no_grad():
        offset.weight.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0, -3.0]))
        gain.weight.copy_(offset.weight + 1)
    assert torch.equal(offset(x), gain(x))


@pytest.mark.parametrize("config", [RMSNormConfig, GainRMSNormConfig, UnitRMSNormConfig])
@pytest.mark.parametrize("shape", [(5,), (0, 5), (3, 7, 5), (2, 4, 3, 5)])
def test_gradients_by_hand_equal_those_of_the_formula(
    config: type[RMSNormConfig], shape: tuple[int, ...]
) -> None:
    norm = config(width=5).build().double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(shape, dtype=torch.float64).movedim(0, -2 if len(shape) > 1 else 0).requires_grad_()
    inputs, outcomes = [x, *norm.parameters()], []
    for implementation in ("", "rms_norm=reference"):
        with use_implementation(implementation):
            y = norm(x)
        outcomes.append([y, *torch.autograd.grad((y * torch.arange(5.0)).square().sum(), inputs)])
    for ours, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", [RMSNormConfig, UnitRMSNormConfig])
def test_first_and_second_derivatives_survive_a_numeric_check(config: type[RMSNormConfig]) -> None:
    norm = config(width=4).build().double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,)) and torch.autograd.gradgradcheck(norm, (x,))


def test_large_and_small_vectors_keep_finite_gradients() -> None:
    for scale in (1e-15, 1e15):
        x = (scale * torch.randn(3, 8)).requires_grad_()
        RMSNorm(RMSNormConfig(width=8))(x).square().sum().backward()
        assert x.grad is not None and x.grad.isfinite().all()


def test_a_gradient_under_autocast_is_not_rounded() -> None:
    norm, x = RMSNorm(RMSNormConfig(width=8)), torch.randn(3, 8, requires_grad=True)
    (expected,) = torch.autograd.grad(norm(x).pow(3).sum(), [x])
    with torch.autocast("cpu", torch.bfloat16):
        (ours,) = torch.autograd.grad(norm(x).pow(3).sum(), [x])
    assert torch.equal(ours, expected)


def test_a_zero_vector_stays_zero_with_finite_gradient() -> None:
    x = torch.zeros(3, 8, requires_grad=True)
    y = RMSNorm(RMSNormConfig(width=8))(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(3, 8)) and x.grad is not None and x.grad.isfinite().all()


def test_elementwise_cost_counts_every_number_and_nothing_canonical() -> None:
    norms = (
        (RMSNorm(RMSNormConfig(width=6)), 4),
        (GainRMSNorm(GainRMSNormConfig(width=6)), 4),
        (UnitRMSNorm(UnitRMSNormConfig(width=6)), 3),
        (LayerNorm(LayerNormConfig(width=6)), 7),
    )
    for norm, per_number in norms:
        assert (norm.cost(11).elementwise, norm.flops(11)) == (per_number * 6 * 11, 0)


@pytest.mark.parametrize("options", [{"width": 0}, {"width": 4, "eps": 0.0}])
def test_impossible_norms_are_refused(options: dict[str, float]) -> None:
    for config in (RMSNormConfig, GainRMSNormConfig, UnitRMSNormConfig, LayerNormConfig):
        with pytest.raises(ConfigError, match="must be"):
            config.from_options(options)
