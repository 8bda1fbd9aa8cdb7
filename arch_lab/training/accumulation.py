"""Gradient accumulation inside a training step: one step, one batch, one loss, in parts that fit in memory.

Lightning's own accumulation makes a step of several batches, and then every callback, loader and interval has to
know which of its batches ends a step. Here a step stays one batch for all of them: its parts run forward and
backward one after the other, and the loss that is returned hands the summed gradients on.

Legend: R rows of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

Step = Callable[[Any, int], Any]


def accumulate(module: pl.LightningModule, rows: int) -> None:
    """Let ``module`` train on each batch in parts of ``rows`` rows.

    The rows of a batch are a multiple of ``rows``. Its ``training_step`` returns the mean over rows, or, with an
    attribute ``sums_rows``, a sum that the batch has already divided.
    """
    step: Step = module.training_step

    def in_parts(batch: Any, batch_idx: int) -> Tensor:  # Lightning looks for this name
        return _step(module, step, rows, batch, batch_idx)

    module.training_step = in_parts  # type: ignore[method-assign]


def _step(module: pl.LightningModule, step: Step, rows: int, batch: Any, index: int) -> Tensor:
    parts = list(parts_of(batch, rows))
    scale = 1.0 if getattr(module, "sums_rows", False) else 1 / len(parts)
    parameters = [p for p in module.parameters() if p.requires_grad]
    gradients: list[Tensor | None] = [None] * len(parameters)
    total = torch.zeros((), device=module.device)
    for part in parts:
        loss = step(part, index) * scale
        total = total + loss.detach()
        own = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [_sum(a, b) for a, b in zip(gradients, own, strict=True)]
    result: Tensor = _HandOn.apply(total, gradients, *parameters)  # type: ignore[no-untyped-call]
    return result


def parts_of(batch: Any, rows: int) -> Iterator[Any]:
    """Slices of ``rows`` rows of every tensor of a batch; a tensor without rows belongs to each of them."""
    number = next(len(leaf) for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor) and leaf.ndim)
    for first in range(0, number, rows):
        yield tree_map(partial(_rows, first=first, last=first + rows), batch)


def _rows(leaf: Any, *, first: int, last: int) -> Any:
    return leaf[first:last] if isinstance(leaf, Tensor) and leaf.ndim else leaf


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a.add_(b)


class _HandOn(torch.autograd.Function):
    """A loss whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        known, ctx.gradients = ctx.gradients, None
        return (None, None, *(None if g is None else g * gradient for g in known))
