"""One pre-norm layer on a GPU.

Monarch Mixer with our kernels, the same on plain torch, and attention with a dense gated unit.

Legend: B sequences, T tokens, D width. Weights float32 under bfloat16 autocast on every side, as ``precision:
bf16-mixed`` trains. The attention is the barest one (arch_lab.bench.monarch.PlainAttention: causal SDPA,
whose flash kernel a GPU takes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from arch_lab.bench.groups import BYTES, Contender, Group, OpsBench
from arch_lab.bench.monarch import EXPANSION, PlainAttention, PreNormLayer
from blocks import BlockDiagonalGLUConfig, GeGLUConfig, M2MixerConfig
from blocks.dispatch import use_implementation


def layers(bench: OpsBench) -> Iterator[Group]:
    d, f = bench.layer_width, EXPANSION * bench.layer_width
    for tokens in bench.layer_tokens:
        x = torch.randn(max(1, bench.layer_rows // tokens), tokens, d, device=bench.device)
        mixer = M2MixerConfig(width=d, max_tokens=tokens).build()
        unit = BlockDiagonalGLUConfig(width=d, ffn_width=f, blocks=bench.blocks).build()
        m2 = PreNormLayer(d, mixer, unit).to(bench.device)
        attention = PreNormLayer(d, PlainAttention(d), GeGLUConfig(width=d, ffn_width=f).build()).to(
            bench.device
        )
        plain = deepcopy(m2)
        flops = len(x) * (mixer.flops(tokens) + unit.flops(tokens))
        yield Group(
            name="M2 layer",
            shape=f"B {len(x)}, T {tokens}, D {d}, {bench.blocks} blocks",
            contenders={
                "ours": _contender(bench, m2, x),
                "the same on plain torch": _contender(bench, plain, x, plain_torch=True),
                "attention + dense GeGLU layer": _contender(bench, attention, x),
            },
            definition=None,
            bytes_moved=(2 * BYTES * x.numel(), 5 * BYTES * x.numel()),
            flops=flops,
        )


def _contender(bench: OpsBench, layer: nn.Module, x: Tensor, *, plain_torch: bool = False) -> Contender:
    def call(x: Tensor, *_: Tensor) -> Tensor:
        with torch.autocast(bench.device, bench.dtype, enabled=bench.dtype != torch.float32):
            y: Tensor = layer(x)
        return y

    function: Callable[..., Tensor] = call
    if plain_torch:

        def function(x: Tensor, *parameters: Tensor) -> Tensor:
            with use_implementation("reference"):
                return call(x, *parameters)

    return function, (x, *layer.parameters())
