"""The contenders of ``arch-lab bench monarch`` compute what they are said to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from arch_lab.bench.monarch import PlainAttention
from arch_lab.bench.pages import can_switch, on_small_pages
from arch_lab.bench.released_style import ReleasedGLU, ReleasedMixer, block_diagonal, whole_tensor_convolution
from arch_lab.bench.suites import SUITES
from blocks import BlockDiagonalGLUConfig, BlockDiagonalLinearConfig, M2MixerConfig
from blocks.convolution.fft import causal_convolution


def same(a: Tensor, b: Tensor) -> None:
    assert (a - b).abs().max() <= 1e-10 * b.abs().max()


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["mixer", "glu", "linear"])
def test_the_released_style_is_the_same_function_with_the_same_gradients(kind: str) -> None:
    x = randn(2, 70, 8).requires_grad_()
    ours: Any
    theirs: Any
    if kind == "mixer":
        ours = M2MixerConfig(width=8, max_tokens=70, filter_order=8).build().double()
        theirs = ReleasedMixer(ours)
    elif kind == "glu":
        ours = BlockDiagonalGLUConfig(width=8, ffn_width=12, blocks=4).build().double()
        theirs = ReleasedGLU(ours)
    else:
        ours = BlockDiagonalLinearConfig(in_features=8, out_features=12, blocks=4).build().double()
        theirs = lambda x: block_diagonal(ours, x)  # noqa: E731
    inputs, g = [x, *ours.parameters()], randn(*ours(x).shape)
    same(theirs(x), ours(x))
    for a, b in zip(
        torch.autograd.grad(theirs(x), inputs, g), torch.autograd.grad(ours(x), inputs, g), strict=True
    ):
        same(a, b)


def test_the_whole_tensor_convolution_is_the_causal_one() -> None:
    u, k = randn(2, 3, 33), randn(3, 33)
    same(whole_tensor_convolution(u, k), causal_convolution(u, k))


def test_the_attention_peer_is_causal() -> None:
    mixer, x = PlainAttention(64).double(), randn(1, 9, 64)
    same(mixer(x[:, :5]), mixer(x)[:, :5])


def test_a_peer_on_small_pages_returns_what_it_returns_and_leaves_huge_pages_on() -> None:
    before = can_switch()
    assert on_small_pages(lambda: 7)() == 7
    assert can_switch() == before


def test_the_suite_is_offered() -> None:
    assert "monarch" in SUITES
