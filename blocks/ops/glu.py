"""Gated unit with block-diagonal maps.

down(gelu(gate) · value) + bias, gate and value the halves of one map up; exact (erf) GELU.

Legend: M rows, D width, F hidden channels of one branch, K blocks, which divide D and F.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from blocks.dispatch import log_once
from blocks.dispatch.operations import Operation, run_kernel, triton
from blocks.errors import ConfigError
from blocks.ops import block_diagonal as product
from blocks.ops.chunks import row_chunks
from blocks.ops.gradients import attach, on_rows, or_empty, rows_of, with_saved
from blocks.ops.inputs import check_alike, check_rank, follow_autocast

CHUNK_ROWS = 256  # their hidden values stay in cache, and products do not starve yet
OPERATION = Operation(
    name="block_diagonal_glu",
    example={"rows": 4096, "width": 768, "ffn_width": 3072, "k": 4},
    cpu_reason=product.by_rows,
    kernels={"triton": triton("block_diagonal", "glu", "glu_forward", "glu_backward")},
)


def block_diagonal_glu(
    x: Tensor, up: Tensor, down: Tensor, bias: Tensor | None = None, *, implementation: str | None = None
) -> Tensor:
    """x (..., D), up (K, 2F/K, D/K), down (K, D/K, F/K), bias (D,) -> (..., D). Autocast is followed as by
    ``F.linear``.

    Raises: ConfigError when shapes, dtypes or devices do not fit, or ``implementation`` cannot run.
    """
    x, up, down, bias = follow_autocast(x, up, down, bias)
    width, ffn_width, k = _check(x, up, down, bias)
    rows = x.shape[:-1].numel()
    sizes = {"rows": rows, "width": width, "ffn_width": ffn_width, "k": k}
    choice = OPERATION.choose(x.device.type, x.dtype, sizes, implementation)
    log_once(OPERATION.name, choice)
    if choice.implementation == "reference":
        return reference(x, up, down, bias)
    if choice.implementation == "cpu" and rows < product.FEW_ROWS:
        gate, value = product.few_rows(rows_of(x), up).chunk(2, dim=-1)
        return product.few_rows(F.gelu(gate) * value, down, bias).view(x.shape)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, up, down, bias))
    y: Tensor = _apply(x, up, down, bias, choice.token, keep)
    return y


def _check(x: Tensor, up: Tensor, down: Tensor, bias: Tensor | None) -> tuple[int, int, int]:
    name = "block-diagonal GLU"
    check_rank(name, up=(up, "K 2F/K D/K"), down=(down, "K D/K F/K"), bias=(bias, "D"))
    check_alike(name, x, up=up, down=down, bias=bias)
    (k, twice, p), (l, q, r) = up.shape, down.shape
    if (l, q, 2 * r) != (k, p, twice):
        raise ConfigError(
            f"{name}: up {tuple(up.shape)} needs down ({k}, {p}, {twice / 2:g}), got {tuple(down.shape)}"
        )
    if x.dim() == 0 or x.shape[-1] != k * p:
        raise ConfigError(
            f"{name}: {k} blocks of {p} inputs need a last size of {k * p}, "
            f"got {x.shape[-1] if x.dim() else 'a number'}"
        )
    if bias is not None and bias.shape[0] != k * p:
        raise ConfigError(f"{name}: the bias has {bias.shape[0]} values for {k * p} outputs")
    return k * p, k * r, k


def reference(x: Tensor, up: Tensor, down: Tensor, bias: Tensor | None = None) -> Tensor:
    """What every implementation must equal."""
    gate, value = rearrange(product.reference(x, up), "... (two f) -> two ... f", two=2)
    return product.reference(F.gelu(gate) * value, down, bias)


# --- cpu ----------------------------------------------------------------------------------------------------


def glu_forward(
    rows: Tensor, up: Tensor, down: Tensor, bias: Tensor | None, keep: bool = False
) -> tuple[Tensor, ...]:
    """y; with ``keep`` also what the backward pass needs: the map up (M, 2F) and the activated gate (M, F)."""
    chunks, ffn_width = row_chunks(rows, CHUNK_ROWS), up.shape[0] * up.shape[1] // 2
    longest = chunks[0].stop
    y, length = rows.new_empty(rows.shape), len(rows) if keep else longest
    hidden, activated = rows.new_empty((length, 2 * ffn_width)), rows.new_empty((length, ffn_width))
    scratch = rows.new_empty((longest, ffn_width))
    for chunk in chunks:
        n = chunk.stop - chunk.start
        stored = chunk if keep else slice(n)
        gate, value = product.linear_into(hidden[stored], rows[chunk], up).chunk(2, dim=-1)
        torch.ops.aten.gelu.out(gate, out=activated[stored])
        torch.mul(activated[stored], value, out=scratch[:n])
        product.linear_into(y[chunk], scratch[:n], down, bias)
    return (y, hidden, activated) if keep else (y,)


def glu_backward(
    gradient: Tensor,
    rows: Tensor,
    up: Tensor,
    down: Tensor,
    need: Sequence[bool],
    hidden: Tensor,
    activated: Tensor,
) -> tuple[Tensor | None, ...]:
    if not hidden.numel():
        hidden = product.linear_forward(rows, up, None)
        activated = F.gelu(hidden.chunk(2, dim=-1)[0])
    chunks = row_chunks(rows, CHUNK_ROWS)
    dx, dup, ddown = (
        t.new_empty(t.shape) if needed else None for t, needed in zip((rows, up, down), need[:3], strict=True)
    )
    scratch, dhidden = (t.new_empty((chunks[0].stop, t.shape[1])) for t in (activated, hidden))
    for chunk in chunks:
        n, is_first = chunk.stop - chunk.start, chunk.start == 0
        (gate, value), dy, inner = hidden[chunk].chunk(2, dim=-1), gradient[chunk], scratch[:n]
        if ddown is not None:
            torch.mul(activated[chunk], value, out=inner)
            product.add_weight_gradient(ddown, dy, inner, is_first)
        if dx is None and dup is None:
            continue
        product.linear_into(inner, dy, down.mT)
        dgate, dvalue = dhidden[:n].chunk(2, dim=-1)
        torch.mul(inner, activated[chunk], out=dvalue)
        torch.ops.aten.gelu_backward.grad_input(inner.mul_(value), gate, grad_input=dgate)
        if dx is not None:
            product.linear_into(dx[chunk], dhidden[:n], up.mT)
        if dup is not None:
            product.add_weight_gradient(dup, dhidden[:n], rows[chunk], is_first)
    return dx, dup, ddown, gradient.sum(dim=0) if need[3] else None


# --- the operator -------------------------------------------------------------------------------------------


def _run(
    rows: Tensor, up: Tensor, down: Tensor, bias: Tensor | None, choice: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    plain = partial(glu_forward, keep=keep and choice == "cpu")
    outputs = run_kernel(OPERATION, "forward", choice, plain, rows, up, down, bias)
    return with_saved(outputs, keep and choice == "cpu", rows, 2)  # type: ignore[return-value]


def _run_backward(
    gradient: Tensor,
    rows: Tensor,
    up: Tensor,
    down: Tensor,
    bias: Tensor | None,
    hidden: Tensor,
    activated: Tensor,
    need: Sequence[bool],
    choice: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    plain = partial(glu_backward, hidden=hidden, activated=activated)
    return or_empty(
        run_kernel(OPERATION, "backward", choice, plain, gradient, rows, up, down, tuple(need)), rows
    )  # type: ignore[return-value]


_operator = torch.library.custom_op("blocks::block_diagonal_glu", _run, mutates_args=())
_backward = torch.library.custom_op("blocks::block_diagonal_glu_backward", _run_backward, mutates_args=())


@_operator.register_fake
def _(
    rows: Tensor, up: Tensor, down: Tensor, bias: Tensor | None, choice: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    ffn_width = up.shape[0] * up.shape[1] // 2
    saved = keep and choice == "cpu"
    hidden, activated = (
        ((rows.shape[0], 2 * ffn_width), (rows.shape[0], ffn_width)) if saved else ((0,), (0,))
    )
    return rows.new_empty(rows.shape), rows.new_empty(hidden), rows.new_empty(activated)


attach(_operator, _backward, reference, tensors=4, saved=2)
_apply = on_rows(_operator, _backward, _run, _run_backward, name=OPERATION.name, tensors=4)


@register_flop_formula(torch.ops.blocks.block_diagonal_glu)
def _flops(rows_shape: torch.Size, up_shape: torch.Size, down_shape: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * rows_shape[0] * (up_shape.numel() + down_shape.numel())


@register_flop_formula(torch.ops.blocks.block_diagonal_glu_backward)
def _backward_flops(
    gradient: Any,
    rows_shape: torch.Size,
    up_shape: torch.Size,
    down_shape: torch.Size,
    bias: Any,
    hidden: Any,
    activated: Any,
    need: Sequence[bool],
    *_: Any,
    **__: Any,
) -> int:
    """Two products for each of the forward's; recomputed hidden values are not charged, as nowhere else."""
    through = need[0] or need[1]
    return (
        2
        * rows_shape[0]
        * (up_shape.numel() * (need[0] + need[1]) + down_shape.numel() * (need[2] + through))
    )
