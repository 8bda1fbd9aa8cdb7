"""Gradients written by hand for elementwise work, where torch runs one operation after the other.

Autograd keeps an intermediate result for every operation of a formula and walks memory once for each. On a
processor a short ``torch.autograd.Function`` takes a half to a fifth of that time. A compiler fuses the plain
formula better than any of this, so what is compiled, traced, counted or transformed runs the formula.
Such a function saves what it needs in ``forward(ctx, …)``: with a ``setup_context`` torch binds the signature
anew at every call, 50 µs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from blocks.dispatch.choice import Choice, log_once
from blocks.dispatch.requests import override
from blocks.errors import ConfigError

SERVED = (torch.float32, torch.float64)
BY_HAND = Choice(implementation="cpu", reason="eager on a processor: gradients written by hand")


def is_plain_eager() -> bool:
    """Whether operations run at once on plain tensors: no compiler, trace, counter or function transform."""
    return not (
        torch.compiler.is_compiling()
        or is_in_torch_dispatch_mode()
        or torch._C._are_functorch_transforms_active()
        or torch.jit.is_tracing()
    )


def by_hand(operation: str, x: Tensor, *others: Tensor | None) -> bool:
    """Whether ``operation`` runs its own gradients on these tensors instead of the plain formula.

    Raises: ConfigError when "cpu" is requested for tensors elsewhere.
    """
    requested, source = override(operation)
    if requested == "reference" or x.device.type == "meta":
        return False
    if x.device.type != "cpu":
        if requested is not None:
            raise ConfigError(f"{operation}: 'cpu', named by {source}, cannot run: it is for CPU tensors")
        return False
    # below float32 torch's own kernels round once, a formula of several operations at each of them
    if x.dtype not in SERVED or any(t is not None and t.dtype != x.dtype for t in others):
        return False
    if not is_plain_eager():
        return False
    log_once(operation, BY_HAND)
    return True


def through_formula(
    formula: Callable[..., Tensor], inputs: Sequence[Tensor | None], need: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of ``formula`` that can be differentiated again: what a backward pass returns for those."""
    with torch.enable_grad():
        y = formula(*inputs)
        needed = [t for t, is_needed in zip(inputs, need, strict=True) if is_needed and t is not None]
        gradients = iter(torch.autograd.grad(y, needed, gradient, create_graph=True))
    return tuple(
        next(gradients) if is_needed and t is not None else None
        for t, is_needed in zip(inputs, need, strict=True)
    )
