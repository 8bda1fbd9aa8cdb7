"""Depth-wise causal convolution over a few tokens.

Legend: C channels, B batch, T tokens, W taps. Channel-major (C, B, T): the order the projections around it
produce for free (weight times transposed input) and the transforms after it want.
Source: HazyResearch/m2, bert/src/mm/monarch_mixer_sequence_mixer.py (``short_filter``; causal in
bidirectional models too).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from blocks.cost import Cost
from blocks.dispatch import override
from blocks.groups import TAPS, ParameterGroup
from blocks.init import fan_in_uniform_

# An operator of its own because torch's depth-wise convolution reorders memory before and after: on a CPU
# these shifted multiply-adds are 2-4 times as fast, forward and backward. Its FLOPs are registered, so
# counted graphs still see them.


def shifted_taps(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """z (C, B, T), weight (C, W), bias (C,) -> (C, B, T)."""
    # two passes: with a broadcast bias, addcmul takes three times the time of both
    out = torch.mul(z, weight[:, -1, None, None]).add_(bias[:, None, None])
    for lag in range(1, min(weight.shape[1], z.shape[-1])):
        out[..., lag:].addcmul_(z[..., :-lag], weight[:, -1 - lag, None, None])
    return out


def shifted_taps_backward(gradient: Tensor, z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z, weight and bias."""
    tokens, taps = z.shape[-1], weight.shape[1]
    dz, dweight = gradient * weight[:, -1, None, None], [(gradient * z).sum((1, 2))]
    for lag in range(1, taps):
        if lag < tokens:
            dz[..., :-lag].addcmul_(gradient[..., lag:], weight[:, -1 - lag, None, None])
        # a lag no token has: the sum over an empty slice is its zero gradient
        dweight.append((gradient[..., lag:] * z[..., : max(0, tokens - lag)]).sum((1, 2)))
    return dz, torch.stack(dweight[::-1], dim=1), gradient.sum((1, 2))


def short_flops(z_shape: torch.Size, taps: int) -> int:
    return 2 * taps * z_shape.numel()


_short_convolution = torch.library.custom_op("blocks::short_convolution", shifted_taps, mutates_args=())


@_short_convolution.register_fake
def _(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.empty_like(z, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return shifted_taps_backward(gradient, *ctx.saved_tensors)


_short_convolution.register_autograd(_backward, setup_context=_keep)


@register_flop_formula(torch.ops.blocks.short_convolution)
def _flops(z_shape: torch.Size, weight_shape: torch.Size, *_: Any, **__: Any) -> int:
    return short_flops(z_shape, weight_shape[1])


class ShortConvolution(nn.Module):
    """c[t] = bias + sum_{i < W} weight[:, i] z[t - W + 1 + i], zeros before the first token.

    Shape: (C, B, T) -> (C, B, T). Initialisation: weight and bias U(±1/sqrt(W)), as torch draws a depth-wise
    convolution.
    Cost: 2·W FLOPs per channel and token, plus the bias.
    """

    def __init__(self, channels: int, taps: int = 3) -> None:
        super().__init__()
        self.channels, self.taps = channels, taps
        self.weight = nn.Parameter(torch.empty(channels, taps))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        return {"weight": TAPS}

    def reset_parameters(self) -> None:
        fan_in_uniform_(self.weight, self.taps)
        fan_in_uniform_(self.bias, self.taps)

    def forward(self, z: Tensor, tail: Tensor | None = None) -> Tensor:
        """``tail`` (B, C, <= W - 1): the inputs just before z, see ``next_tail``."""
        past = 0 if tail is None else tail.shape[-1]
        if tail is not None:
            z = torch.cat([tail.transpose(0, 1).to(z.dtype), z], dim=-1)
        # one operator everywhere, which shapes alone are counted by; plain torch on request
        requested, _ = override("short_convolution")
        convolve = shifted_taps if requested == "reference" and not z.is_meta else _short_convolution
        return convolve(z, self.weight.to(z.dtype), self.bias.to(z.dtype))[..., past:]

    def next_tail(self, z: Tensor, tail: Tensor) -> Tensor:
        """The last inputs, at most W - 1 of them, after z (C, B, t) has followed ``tail`` (B, C, s)."""
        both = torch.cat([tail, z.transpose(0, 1)], dim=-1)
        return both[..., max(0, both.shape[-1] - self.taps + 1) :].contiguous()

    def cost(self, tokens: int) -> Cost:
        return Cost(matmul=2 * self.taps * self.channels * tokens, elementwise=self.channels * tokens)
