"""Soft-cap of logits, c·tanh(x/c), with one tensor kept and one made on the way back.

Source: arXiv 2408.00118 §2 (Gemma 2 caps its logits at 30). Written with separate operators it makes three
tensors as large as the logits and keeps two; on a processor, fresh memory of that size costs more than the
tanh.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.norm import widened


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """c·tanh(x/c), any shape; computed in float32 or wider, dtype kept. No second derivatives."""
    y: Tensor = _SoftCap.apply(x.to(widened(x.dtype)), cap)  # type: ignore[no-untyped-call]
    return y.to(x.dtype)


class _SoftCap(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, cap: float) -> Tensor:
        return torch.div(x, cap).tanh_().mul_(cap)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.cap = inputs[1]
        ctx.save_for_backward(output)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        # d tanh = 1 - tanh^2, in the one tensor that is returned
        return torch.square(y).mul_(-1 / ctx.cap**2).add_(1).mul_(dy), None
