"""Block-diagonal channel mixers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from m2_goldens import close, golden, group

from blocks import build
from blocks.errors import ConfigError
from blocks.monarch.glu import BlockDiagonalGLU, BlockDiagonalGLUConfig


@pytest.mark.parametrize("block, name", [("block_diagonal_glu", "glu"), ("block_diagonal_mlp", "mlp")])
def test_with_residual_and_norm_it_equals_the_released_channel_mixer(block: str, name: str) -> None:
    g = golden(f"channelmixer_{name}_blockdiag")
    names = {"up.weight": "gated_layers.weight", "down.weight": "wo.weight", "down.bias": "wo.bias"}
    mixer = build(block, width=16, ffn_width=32).double()
    mixer.load_state_dict({a: g[f"param.{b}"] for a, b in names.items()})
    x = g["in.x"].requires_grad_()
    norm = [g[f"param.layernorm.{key}"].requires_grad_() for key in ("weight", "bias")]
    y = F.layer_norm(x + mixer(x), (16,), *norm, eps=1e-12)
    close(y, g["out.y"])
    y.backward(g["in.grad_out"])
    assert x.grad is not None
    close(x.grad, g["grad.x"])
    assert set(names.values()) <= set(group(g, "grad."))
    for tensor, key in zip(norm, ("weight", "bias"), strict=True):
        close(tensor.grad, g[f"grad.layernorm.{key}"])  # type: ignore[arg-type]
    for a, b in names.items():
        close(dict(mixer.named_parameters())[a].grad, g[f"grad.{b}"])  # type: ignore[arg-type]


@pytest.mark.parametrize("block", ["block_diagonal_glu", "block_diagonal_mlp"])
@pytest.mark.parametrize("width, ffn", [(16, 32), (10, 21)])
def test_flops_are_what_a_counted_forward_executes(block: str, width: int, ffn: int) -> None:
    mixer = build(block, width=width, ffn_width=ffn)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        mixer(torch.zeros(7, width))
    assert mixer.flops(7) == counter.get_total_flops()


def test_the_gate_reads_the_first_half_of_the_channels_and_the_value_the_second() -> None:
    mixer = build("block_diagonal_glu", width=8, ffn_width=16)
    assert isinstance(mixer, BlockDiagonalGLU)
    gate, value = mixer.up.dense_weight().chunk(2)
    assert gate[:, :4].any() and not gate[:, 4:].any()
    assert value[:, 4:].any() and not value[:, :4].any()


def test_more_blocks_than_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="exceeds width"):
        BlockDiagonalGLUConfig(width=3, ffn_width=8)
