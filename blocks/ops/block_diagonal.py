"""Block-diagonal product: y[k·Q + i] = sum_j weight[k, i, j] x[k·P + j] + bias[k·Q + i].

Legend: M rows, K blocks, P inputs and Q outputs of one block.
A product of blocks is one batched GEMM, whose result lies block by block; rows want it side by side. The cpu
implementation writes it there at once, bias included: without that copy 1.2-4 times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from blocks.dispatch import log_once
from blocks.dispatch.operations import Operation, Sizes, cuda, run_kernel, triton
from blocks.errors import ConfigError
from blocks.ops.gradients import attach, on_rows, or_empty, rows_of
from blocks.ops.inputs import check_alike, check_rank, follow_autocast

FEW_NUMBERS = 2**18  # up to here copies of input and output cost less than a graph node written in Python
FEW_ROWS = 64  # below it an operator of our own costs more to call than the copy it saves


def by_rows(sizes: Sizes) -> str:
    return (
        "many rows: products written where they belong"
        if sizes["rows"] >= FEW_ROWS
        else "few rows: plain products, no operator to call"
    )


def is_small(sizes: Sizes) -> bool:
    return sizes["rows"] * sizes["k"] * max(sizes["p"], sizes["q"]) <= FEW_NUMBERS


def by_size(sizes: Sizes) -> str:
    if is_small(sizes) and sizes["rows"] >= FEW_ROWS:
        return "a small product: plain, no operator to call"
    return by_rows(sizes)


OPERATION = Operation(
    name="block_diagonal_matmul",
    example={"rows": 4096, "k": 4, "q": 192, "p": 192},
    cpu_reason=by_size,
    kernels={
        "triton": triton("block_diagonal", "linear", "linear_forward", "linear_backward"),
        "cuda": cuda("block_diagonal", "linear", "linear_forward", "linear_backward"),
    },
)


def block_diagonal_matmul(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, implementation: str | None = None
) -> Tensor:
    """x (..., K·P), weight (K, Q, P), bias (K·Q,) -> (..., K·Q), real or complex. Autocast is followed as by
    ``F.linear``.

    Raises: ConfigError when shapes, dtypes or devices do not fit, or ``implementation`` cannot run.
    """
    x, weight, bias = follow_autocast(x, weight, bias)
    k, q, p = _check(x, weight, bias)
    sizes = {"rows": x.shape[:-1].numel(), "k": k, "q": q, "p": p}
    choice = OPERATION.choose(x.device.type, x.dtype, sizes, implementation)
    log_once(OPERATION.name, choice)
    if choice.implementation == "reference":
        return reference(x, weight, bias)
    if choice.implementation == "cpu" and not choice.requested and is_small(sizes):
        if x.dim() == 2:  # views would be nodes of the graph
            return few_rows(x, weight, bias)
        return few_rows(rows_of(x), weight, bias).view(*x.shape[:-1], k * q)
    y: Tensor = _apply(x, weight, bias, choice.token)
    return y


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[int, int, int]:
    check_rank("block-diagonal product", weight=(weight, "K Q P"), bias=(bias, "K·Q"))
    check_alike("block-diagonal product", x, weight=weight, bias=bias)
    k, q, p = weight.shape
    if x.dim() == 0 or x.shape[-1] != k * p:
        size = "a single number" if x.dim() == 0 else x.shape[-1]
        raise ConfigError(
            f"block-diagonal product: {k} blocks of {p} inputs need a last size of {k * p}, got {size}"
        )
    if bias is not None and bias.shape[0] != k * q:
        raise ConfigError(
            f"block-diagonal product: {k} blocks of {q} outputs need a bias of {k * q}, got {bias.shape[0]}"
        )
    return k, q, p


def reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What every implementation must equal. A batched product, not an einsum: that one turns sizes of 1 into
    work no counter sees.
    """
    k, q, p = weight.shape
    blocks = rearrange(x.reshape(x.shape[:-1].numel(), k * p), "m (k p) -> k m p", k=k)
    y = rearrange(torch.bmm(blocks, rearrange(weight, "k q p -> k p q")), "k m q -> m (k q)").view(
        *x.shape[:-1], k * q
    )
    return y if bias is None else y + bias


# --- cpu ----------------------------------------------------------------------------------------------------


def blocks_of(rows: Tensor, k: int) -> Tensor:
    """(M, K·P) -> (K, M, P): rows of one block are K·P apart, which GEMM takes as it is."""
    return rows.view(rows.shape[0], k, rows.shape[1] // k).transpose(0, 1)


def few_rows(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    k, q, _ = weight.shape
    y = torch.bmm(blocks_of(rows, k), weight.mT).transpose(0, 1).reshape(rows.shape[0], k * q)
    return y if bias is None else y + bias


def linear_forward(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear_into(rows.new_empty((rows.shape[0], weight.shape[0] * weight.shape[1])), rows, weight, bias)


def linear_into(y: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The map written to y (M, K·Q), whose rows must be contiguous."""
    k, q, _ = weight.shape
    out = y.view(rows.shape[0], k, q).transpose(0, 1)
    if bias is None:
        torch.bmm(blocks_of(rows, k), weight.mT, out=out)
    else:
        torch.baddbmm(bias.view(k, 1, q), blocks_of(rows, k), weight.mT, out=out)
    return y


def weight_gradient(gradient: Tensor, rows: Tensor, k: int) -> Tensor:
    return torch.bmm(blocks_of(gradient, k).mT, blocks_of(rows, k))


def add_weight_gradient(total: Tensor, gradient: Tensor, rows: Tensor, first: bool) -> None:
    """Add these rows' gradient to ``total`` (K, Q, P), or write it there when they are the first."""
    k = len(total)
    total.baddbmm_(blocks_of(gradient, k).mT, blocks_of(rows, k), beta=0 if first else 1)


def linear_backward(
    gradient: Tensor, rows: Tensor, weight: Tensor, need: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    return (
        linear_forward(gradient, weight.mT, None) if need[0] else None,
        weight_gradient(gradient, rows, len(weight)) if need[1] else None,
        gradient.sum(dim=0) if need[2] else None,
    )


# --- the operator -------------------------------------------------------------------------------------------


def _run(rows: Tensor, weight: Tensor, bias: Tensor | None, choice: str) -> Tensor:
    y: Tensor = run_kernel(OPERATION, "forward", choice, linear_forward, rows, weight, bias)
    return y


def _run_backward(
    gradient: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, need: Sequence[bool], choice: str
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = run_kernel(
        OPERATION, "backward", choice, linear_backward, gradient, rows, weight, tuple(need)
    )
    return or_empty(gradients, rows)  # type: ignore[return-value]


_operator = torch.library.custom_op("blocks::block_diagonal_matmul", _run, mutates_args=())
_backward = torch.library.custom_op("blocks::block_diagonal_matmul_backward", _run_backward, mutates_args=())


@_operator.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor | None, choice: str) -> Tensor:
    return rows.new_empty((rows.shape[0], weight.shape[0] * weight.shape[1]))


attach(_operator, _backward, reference, tensors=3)
_apply = on_rows(_operator, _backward, _run, _run_backward, name=OPERATION.name, tensors=3)


@register_flop_formula(torch.ops.blocks.block_diagonal_matmul)
def _flops(rows_shape: torch.Size, weight_shape: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * rows_shape[0] * weight_shape.numel()


@register_flop_formula(torch.ops.blocks.block_diagonal_matmul_backward)
def _backward_flops(
    gradient_shape: torch.Size,
    rows_shape: torch.Size,
    weight_shape: torch.Size,
    bias: Any,
    need: Sequence[bool],
    *_: Any,
    **__: Any,
) -> int:
    return 2 * rows_shape[0] * weight_shape.numel() * sum(need[:2])
