"""The two-factor Monarch product: two block-diagonal maps with a transposition between them.

Legend: M rows; first factor (K, Q, P), second factor (L, S, R); K·P inputs, K·Q = L·R hidden values, L·S
outputs.

    h[k·Q + q] = sum_p first[k, q, p] x[k·P + p]
    z[l, r] = h[r·L + l]
    y[s·L + l] = sum_r second[l, s, r] z[l, r]

Source: arXiv 2204.00595; index map of HazyResearch/fly,
src/models/layers/{blockdiag_butterfly_multiply,monarch_linear}.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from blocks.dispatch import log_once
from blocks.dispatch.operations import Operation, cuda, run_kernel, triton
from blocks.errors import ConfigError
from blocks.ops import block_diagonal as product
from blocks.ops.gradients import attach, on_rows, or_empty, rows_of, with_saved
from blocks.ops.inputs import check_alike, check_rank, follow_autocast

OPERATION = Operation(
    name="monarch_matmul",
    example={"rows": 4096, "k": 32, "q": 32, "p": 32, "l": 32, "s": 32, "r": 32},
    cpu_reason=product.by_rows,
    kernels={
        "triton": triton("monarch", "product", "product_forward", "product_backward"),
        "cuda": cuda("monarch", "product", "product_forward", "product_backward"),
    },
    on_gpu=("cuda", "triton"),
)


def monarch_matmul(x: Tensor, first: Tensor, second: Tensor, *, implementation: str | None = None) -> Tensor:
    """x (..., K·P), first (K, Q, P), second (L, S, R) -> (..., L·S), real or complex. Autocast is followed as
    by ``F.linear``.

    Raises: ConfigError when the factors do not chain (K·Q = L·R), when shapes, dtypes or devices do not fit,
    or when ``implementation`` cannot run.
    """
    x, first, second = follow_autocast(x, first, second)
    sizes = _check(x, first, second)
    choice = OPERATION.choose(x.device.type, x.dtype, sizes, implementation)
    log_once(OPERATION.name, choice)
    if choice.implementation == "reference":
        return reference(x, first, second)
    if choice.implementation == "cpu" and sizes["rows"] < product.FEW_ROWS:
        y = second_factor(product.few_rows(rows_of(x), first), second)
        return y.view(*x.shape[:-1], sizes["l"] * sizes["s"])
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, first, second))
    return _apply(x, first, second, choice.token, keep)


def _check(x: Tensor, first: Tensor, second: Tensor) -> dict[str, int]:
    name = "monarch product"
    check_rank(name, first=(first, "K Q P"), second=(second, "L S R"))
    check_alike(name, x, first=first, second=second)
    (k, q, p), (l, s, r) = first.shape, second.shape
    if k * q != l * r:
        raise ConfigError(f"{name}: the first factor gives {k * q} values, the second takes {l * r}")
    if x.dim() == 0 or x.shape[-1] != k * p:
        raise ConfigError(
            f"{name}: the factors take a last size of {k * p}, got {x.shape[-1] if x.dim() else 'a number'}"
        )
    return {"rows": x.shape[:-1].numel(), "k": k, "q": q, "p": p, "l": l, "s": s, "r": r}


def reference(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """What every implementation must equal."""
    l, s, r = second.shape
    h = product.reference(x, first)
    z = rearrange(h.reshape(h.shape[:-1].numel(), l * r), "m (r l) -> l m r", l=l)
    y = rearrange(torch.bmm(z, rearrange(second, "l s r -> l r s")), "l m s -> m (s l)")
    return y.view(*x.shape[:-1], s * l)


# --- cpu ----------------------------------------------------------------------------------------------------


def strands(rows: Tensor, length: int) -> Tensor:
    """(M, R·L) -> (L, M, R): groups of values with a stride of L."""
    return rows.unflatten(-1, (-1, length)).permute(2, 0, 1)


def second_factor(hidden: Tensor, second: Tensor) -> Tensor:
    """(M, L·R) -> (M, L·S), z and y of the legend."""
    l, s, _ = second.shape
    y = torch.bmm(strands(hidden, l), second.mT)  # (L, M, S)
    return y.permute(1, 2, 0).reshape(hidden.shape[0], s * l)


def product_forward(rows: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """y, and the hidden values (M, K·Q), which the backward pass would compute again."""
    hidden = product.linear_forward(rows, first, None)
    return second_factor(hidden, second), hidden


def product_backward(
    gradient: Tensor, rows: Tensor, first: Tensor, second: Tensor, need: Sequence[bool], hidden: Tensor
) -> tuple[Tensor | None, ...]:
    if not hidden.numel():
        hidden = product.linear_forward(rows, first, None)
    outer = strands(gradient, len(second))  # (L, M, S)
    dsecond = torch.bmm(outer.mT, strands(hidden, len(second))) if need[2] else None
    if not (need[0] or need[1]):
        return None, None, dsecond
    dhidden = second_factor(gradient, second.mT)
    return (*product.linear_backward(dhidden, rows, first, (need[0], need[1], False))[:2], dsecond)


# --- the operator -------------------------------------------------------------------------------------------


def _run(rows: Tensor, first: Tensor, second: Tensor, choice: str, keep: bool) -> tuple[Tensor, Tensor]:
    outputs = run_kernel(OPERATION, "forward", choice, product_forward, rows, first, second)
    return with_saved(outputs, keep and choice == "cpu", rows, 1)  # type: ignore[return-value]


def _run_backward(
    gradient: Tensor,
    rows: Tensor,
    first: Tensor,
    second: Tensor,
    hidden: Tensor,
    need: Sequence[bool],
    choice: str,
) -> tuple[Tensor, Tensor, Tensor]:
    plain = partial(product_backward, hidden=hidden)
    return or_empty(
        run_kernel(OPERATION, "backward", choice, plain, gradient, rows, first, second, tuple(need)), rows
    )  # type: ignore[return-value]


_operator = torch.library.custom_op("blocks::monarch_matmul", _run, mutates_args=())
_backward = torch.library.custom_op("blocks::monarch_matmul_backward", _run_backward, mutates_args=())


@_operator.register_fake
def _(rows: Tensor, first: Tensor, second: Tensor, choice: str, keep: bool) -> tuple[Tensor, Tensor]:
    hidden = (rows.shape[0], first.shape[0] * first.shape[1]) if keep and choice == "cpu" else (0,)
    return rows.new_empty((rows.shape[0], second.shape[0] * second.shape[1])), rows.new_empty(hidden)


attach(_operator, _backward, reference, tensors=3, saved=1)
_apply = on_rows(_operator, _backward, _run, _run_backward, name=OPERATION.name, tensors=3)


@register_flop_formula(torch.ops.blocks.monarch_matmul)
def _flops(
    rows_shape: torch.Size, first_shape: torch.Size, second_shape: torch.Size, *_: Any, **__: Any
) -> int:
    return 2 * rows_shape[0] * (first_shape.numel() + second_shape.numel())


@register_flop_formula(torch.ops.blocks.monarch_matmul_backward)
def _backward_flops(
    gradient: Any,
    rows_shape: torch.Size,
    first_shape: torch.Size,
    second_shape: torch.Size,
    hidden: Any,
    need: Sequence[bool],
    *_: Any,
    **__: Any,
) -> int:
    """Two products for each of the forward's; recomputed hidden values are not charged, as nowhere else."""
    through = need[0] or need[1]
    return (
        2
        * rows_shape[0]
        * (first_shape.numel() * (need[0] + need[1]) + second_shape.numel() * (need[2] + through))
    )
