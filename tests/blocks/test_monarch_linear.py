"""Two-factor Monarch products and the linear layer made of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m2_goldens import close, golden

from blocks.errors import ConfigError
from blocks.monarch.monarch_linear import MonarchLinear, MonarchLinearConfig
from blocks.ops.monarch import monarch_matmul
from blocks.ops.monarch import reference as monarch_matmul_reference


@settings(deadline=None, max_examples=25)
@given(
    k=st.integers(1, 4),
    l=st.integers(1, 4),
    scale=st.integers(1, 3),
    p=st.integers(1, 5),
    s=st.integers(1, 5),
    dtype=st.sampled_from([torch.float64, torch.complex128]),
)
def test_the_fast_product_and_its_gradients_equal_the_definition(
    k: int, l: int, scale: int, p: int, s: int, dtype: torch.dtype
) -> None:
    x = torch.randn(2, 3, k * p, dtype=dtype, requires_grad=True)
    w1 = torch.randn(
        k, l * scale, p, dtype=dtype, requires_grad=True
    )  # K·Q = L·R with Q = L·scale, R = K·scale
    w2 = torch.randn(l, s, k * scale, dtype=dtype, requires_grad=True)
    fast, slow = monarch_matmul(x, w1, w2), monarch_matmul_reference(x, w1, w2)
    close(fast, slow, 1e-13)
    g = torch.randn_like(fast)
    for a, b in zip(
        torch.autograd.grad(fast, (x, w1, w2), g), torch.autograd.grad(slow, (x, w1, w2), g), strict=True
    ):
        close(a, b, 1e-13)


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
def test_the_product_equals_the_released_one_with_gradients(name: str) -> None:
    g = golden(f"monarch_butterfly_{name}")
    inputs = [g[key].requires_grad_() for key in ("in.x", "in.w1_bfly", "in.w2_bfly")]
    y = monarch_matmul(*inputs)
    close(y, g["out.y"])
    for gradient, key in zip(
        torch.autograd.grad(y, inputs, g["in.grad_out"]), ("x", "w1_bfly", "w2_bfly"), strict=True
    ):
        close(gradient, g[f"grad.{key}"])
    eye = torch.eye(inputs[0].shape[-1], dtype=y.dtype)
    close(monarch_matmul(eye, *inputs[1:]).mT, g["out.dense_matrix"])


@pytest.mark.parametrize(
    "name, i, o", [("expand", 12, 20), ("contract", 20, 12), ("square", 16, 16), ("pad", 10, 14)]
)
def test_the_layer_equals_the_released_one(name: str, i: int, o: int) -> None:
    g, layer = (
        golden(f"monarch_linear_{name}"),
        MonarchLinear(MonarchLinearConfig(in_features=i, out_features=o)).double(),
    )
    layer.load_state_dict(
        {"first": g["param.blkdiag1"], "second": g["param.blkdiag2"], "bias": g["param.bias"]}
    )
    close(layer(g["in.x"]), g["out.y"])
    close(layer.dense_weight(), g["out.dense_weight"])
    twin = MonarchLinear.from_dense(g["out.dense_weight"], g["param.bias"])
    close(twin(g["in.x"]), g["out.y"])
    close(layer.dense()(g["in.x"]), g["out.y"])
    assert (layer.first.numel() + layer.second.numel()) / (i * o) == pytest.approx(g["cfg.saving"].item())
    close(layer.float()(g["in.x"].float()), g["out.y"], 1e-4)


@settings(deadline=None, max_examples=20)
@given(k=st.integers(1, 4), i=st.integers(4, 13), o=st.integers(4, 13), tokens=st.integers(1, 9))
def test_flops_are_what_a_counted_forward_executes(k: int, i: int, o: int, tokens: int) -> None:
    layer = MonarchLinear(MonarchLinearConfig(in_features=i, out_features=o, blocks=k))
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        layer(torch.zeros(tokens, i))
    assert layer.flops(tokens) == counter.get_total_flops()


@pytest.mark.parametrize("i, o, share", [(64, 64, 0.5), (64, 256, 1.25 / 4), (256, 64, 1.25 / 4)])
def test_four_blocks_hold_the_published_share_of_the_dense_weights(i: int, o: int, share: float) -> None:
    layer = MonarchLinear(MonarchLinearConfig(in_features=i, out_features=o, bias=False))
    assert sum(p.numel() for p in layer.parameters()) == share * i * o


def test_factors_that_do_not_chain_are_refused() -> None:
    with pytest.raises(ConfigError, match="first factor gives 6 values, the second takes 8"):
        monarch_matmul(torch.zeros(1, 4), torch.zeros(2, 3, 2), torch.zeros(2, 3, 4))


def test_more_blocks_than_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="exceeds out_features"):
        MonarchLinearConfig(in_features=8, out_features=3)
