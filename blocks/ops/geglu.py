"""Gated unit with dense maps and Gemma's activation: down(gelu(gate(x)) · up(x)), the tanh form of GELU.

Legend: M rows, D width, F hidden channels of one branch.
By hand it runs over chunks of rows whose hidden values stay in cache, products included. The activation takes a sigmoid, since
(1 + tanh z)/2 = sigmoid(2z) and torch's tanh costs five times as much on a processor; its derivative is computed
in the same pass and kept in place of the gate. Kept are three numbers per hidden channel, one less than autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.dispatch import by_hand, through_formula
from blocks.ops.chunks import row_chunks
from blocks.ops.inputs import follow_autocast

FEW_ROWS = 64  # below it nothing leaves the cache anyway
CHUNK_ROWS = 512
# gelu(g) = g·sigmoid(g·(SLOPE + CURVE·g²))
SLOPE = 2 * (2 / pi) ** 0.5
CURVE = 0.044715 * SLOPE


def geglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """x (..., D), gate and up (F, D), down (D, F) -> (..., D). Autocast is followed as by ``F.linear``."""
    x, gate, up, down = follow_autocast(x, gate, up, down)
    rows = x.shape[:-1].numel()
    if rows < FEW_ROWS or not by_hand("geglu", x, gate, up, down):
        return formula(x, gate, up, down)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, gate, up, down)):
        y: Tensor = _GeGLU.apply(x.reshape(rows, -1), gate, up, down)  # type: ignore[no-untyped-call]
        return y.view(x.shape)
    return _forward(x.reshape(rows, -1), gate, up, down, keep=False)[0].view(x.shape)


def formula(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    # tanh, not the exact GELU: the exact one moves Gemma's logits by 1e-3, which two early ports shipped
    return F.linear(F.gelu(F.linear(x, gate), approximate="tanh") * F.linear(x, up), down)


def _forward(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, *, keep: bool) -> tuple[Tensor, ...]:
    """y; with ``keep`` also what the backward pass needs: up(x), the activated gate and its derivative."""
    chunks = row_chunks(x, CHUNK_ROWS)
    longest = chunks[0].stop
    y = x.new_empty(x.shape)
    value, active, slope = (x.new_empty((len(x) if keep else longest, len(up))) for _ in range(3))
    inner, scratch = (x.new_empty((longest, len(up))) for _ in range(2))
    for chunk in chunks:
        n = chunk.stop - chunk.start
        stored = chunk if keep else slice(n)
        torch.mm(x[chunk], gate.mT, out=inner[:n])
        torch.mm(x[chunk], up.mT, out=value[stored])
        _activate(inner[:n], active[stored], slope[stored] if keep else None, scratch[:n])
        torch.mul(active[stored], value[stored], out=inner[:n])
        torch.mm(inner[:n], down.mT, out=y[chunk])
    return (y, value, active, slope) if keep else (y,)


def _activate(gate: Tensor, active: Tensor, slope: Tensor | None, scratch: Tensor) -> None:
    """gelu(gate) written to ``active`` and its derivative s + g·s·(1 - s)·(SLOPE + 3·CURVE·g²) to ``slope``."""
    linear = gate.new_tensor(SLOPE)
    torch.mul(gate, gate, out=scratch)
    torch.add(linear, scratch, alpha=CURVE, out=active).mul_(gate).sigmoid_()
    if slope is not None:
        torch.add(linear, scratch, alpha=3 * CURVE, out=slope).mul_(gate)
        torch.ops.aten.sigmoid_backward.grad_input(slope, active, grad_input=slope).add_(active)
    active.mul_(gate)


def _backward(
    dy: Tensor, tensors: Sequence[Tensor], need: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    x, gate, up, down, value, active, slope = tensors
    dx, dgate, dup, ddown = (
        t.new_empty(t.shape) if needed else None for t, needed in zip(tensors[:4], need, strict=True)
    )
    chunks = row_chunks(x, CHUNK_ROWS)
    inner, scratch = (x.new_empty((chunks[0].stop, len(up))) for _ in range(2))
    for chunk in chunks:
        n, beta = chunk.stop - chunk.start, 0 if chunk.start == 0 else 1  # beta 0: no sum has begun
        of_product, of_branch = inner[:n], scratch[:n]
        if ddown is not None:
            torch.mul(active[chunk], value[chunk], out=of_branch)
            ddown.addmm_(dy[chunk].mT, of_branch, beta=beta)
        torch.mm(dy[chunk], down, out=of_product)
        torch.mul(of_product, active[chunk], out=of_branch)
        if dup is not None:
            dup.addmm_(of_branch.mT, x[chunk], beta=beta)
        if dx is not None:
            torch.mm(of_branch, up, out=dx[chunk])
        torch.mul(of_product, value[chunk], out=of_branch).mul_(slope[chunk])
        if dgate is not None:
            dgate.addmm_(of_branch.mT, x[chunk], beta=beta)
        if dx is not None:
            dx[chunk].addmm_(of_branch, gate)
    return dx, dgate, dup, ddown


class _GeGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        y, *stored = _forward(x, gate, up, down, keep=True)
        ctx.save_for_backward(x, gate, up, down, *stored)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        tensors, need = ctx.saved_tensors, ctx.needs_input_grad
        if torch.is_grad_enabled():
            return through_formula(formula, tensors[:4], need, dy)
        return _backward(dy, tensors, need)
