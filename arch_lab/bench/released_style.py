"""The Monarch mixer in the style of the released code, as a peer.

Legend: B batch, T tokens, D width, F ffn_width, K blocks.
Written from a description of HazyResearch/m2 (bert/src/mm): projections of (B, T, D), a transposed copy in
front of the convolutions and another behind them, torch's depth-wise ``Conv1d`` padded on both sides and cut,
one ``rfft`` of the whole tensor at twice its length and its inverse, gates between them. Block-diagonal maps
already were a batched product into a preshaped output there, with a gradient written by hand; what is left
out here is only the operators' own dispatch. Every function computes exactly what its counterpart in
``blocks`` does, with the counterpart's weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.convolution.long import LongConvolution
from blocks.convolution.mixer import M2Mixer
from blocks.monarch.block_diagonal import BlockDiagonalLinear
from blocks.monarch.glu import BlockDiagonalGLU


def whole_tensor_convolution(u: Tensor, k: Tensor) -> Tensor:
    """Causal convolution of u (B, D, T) with k (D, T) as one transform.

    One transform of all channels and sequences at 2T points, the scale folded into the kernel's.
    """
    tokens = u.shape[-1]
    spectrum = torch.fft.rfft(k, n=2 * tokens) / (2 * tokens)
    return torch.fft.irfft(torch.fft.rfft(u, n=2 * tokens) * spectrum, n=2 * tokens, norm="forward")[
        ..., :tokens
    ]


class _BlockDiagonal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        k, q, p = weight.shape
        out = x.new_empty((len(x), k, q)).transpose(0, 1)
        return (
            torch.bmm(x.view(-1, k, p).transpose(0, 1), weight.mT, out=out).transpose(0, 1).reshape(-1, k * q)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        k, q, p = weight.shape
        g = gradients[0].reshape(-1, k, q).transpose(0, 1)
        out = x.new_empty((len(x), k, p)).transpose(0, 1)
        dx = torch.bmm(g, weight, out=out).transpose(0, 1).reshape(-1, k * p)
        return dx, torch.bmm(g.mT, x.view(-1, k, p).transpose(0, 1))


def block_diagonal(linear: BlockDiagonalLinear, x: Tensor) -> Tensor:
    """The product into a preshaped output, then the bias in a second pass.

    Widths that K divides.
    """
    y = _BlockDiagonal.apply(x.reshape(-1, x.shape[-1]), linear.weight)  # type: ignore[no-untyped-call]
    y = y.view(*x.shape[:-1], -1)
    return y if linear.bias is None else y + linear.bias


class ReleasedGLU(nn.Module):
    """``BlockDiagonalGLU`` on the released product."""

    def __init__(self, glu: BlockDiagonalGLU) -> None:
        super().__init__()
        self.glu = glu

    def forward(self, x: Tensor) -> Tensor:
        hidden = block_diagonal(self.glu.up, x)
        width = hidden.shape[-1] // 2
        return block_diagonal(self.glu.down, F.gelu(hidden[..., :width]) * hidden[..., width:])


class ReleasedMixer(nn.Module):
    """A causal, token-major ``M2Mixer`` with copies where the layout changes."""

    def __init__(self, mixer: M2Mixer) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        mixer, tokens = self.mixer, x.shape[1]
        z = mixer.in_linear(x).transpose(1, 2).contiguous()  # (B, 3D, T)
        short, long = mixer.short, mixer.long
        assert short is not None and isinstance(long, LongConvolution)
        taps = short.weight[:, None]
        z = F.conv1d(z, taps, short.bias, padding=short.taps - 1, groups=short.channels)[..., :tokens]
        gate_in, gate_out, value = z.chunk(3, dim=1)
        value = (value * gate_in).contiguous()
        kernel = long.filter(tokens).mT.contiguous()
        y = whole_tensor_convolution(value, kernel) + value * long.skip[:, None]
        y = (y * gate_out).transpose(1, 2).contiguous()
        return mixer.out_linear(y)  # type: ignore[no-any-return]
