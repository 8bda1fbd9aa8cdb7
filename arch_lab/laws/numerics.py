"""Law 6: narrow numbers stay near wide ones, all ways of running agree, gradients are those of the function.

Legend: B batch, T tokens.
bfloat16 is compared with float32 on the same rounded weights: a filter whose weights were rounded is another
filter, and the difference would say nothing about the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from arch_lab.laws import tolerances
from arch_lab.laws.moves import ratio
from arch_lab.laws.result import Broken, Share
from arch_lab.laws.subject import Subject, training

CHECKED = 6  # tokens up to which numeric gradients are taken; they cost two forwards a direction
COMPILED = 9  # the length at which the first case is compiled: tracing takes up to a second


def numerics(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """The largest share of its bound that any comparison used (1 = just allowed). Raises: Broken."""
    x = subject.input(batch, tokens, seed)
    worst = max(_widths(subject, x), _ways(subject, x))
    if tokens <= CHECKED:
        _gradients(subject, x)
    if tokens == COMPILED and subject.case.first:
        worst = max(worst, _compiled(subject, x))
    return worst


@torch.no_grad()
def _widths(subject: Subject, x: Tensor) -> float:
    single, half = subject.cast(torch.float32), subject.cast(torch.bfloat16)
    twice = half.cast(torch.float32)
    wide, narrow = single.cast(torch.float64), _like(x, torch.float32)
    y64, y32 = wide(_like(narrow, torch.float64)), single(narrow)
    if y32.dtype != torch.float32:
        raise Broken(f"float32 weights and inputs give {y32.dtype} outputs")
    text = "float32 outputs lie too far from float64 on the same weights"
    share = _within(ratio(y32.double() - y64, y64), tolerances.SINGLE, text)
    rounded = _like(x, torch.bfloat16)
    y16, y = half(rounded), twice(_like(rounded, torch.float32))
    if y16.dtype != torch.bfloat16:
        raise Broken(f"bfloat16 weights and inputs give {y16.dtype} outputs")
    size = ((y16.float() - y).norm() / y.norm().clamp_min(1e-30)).item()
    text = "bfloat16 outputs lie too far from float32 on the same weights"
    return max(share, _within(size, tolerances.HALF, text))


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


@torch.no_grad()
def _ways(subject: Subject, x: Tensor) -> float:
    """Again, strided, in train mode, on another attention backend: equal outputs and an unchanged input."""
    original = x.clone()
    y = subject(x)
    if not torch.equal(x, original):
        raise Broken("the forward changes its input in place")
    if not torch.equal(subject(x), y):
        raise Broken("the same input gives a different output the second time")
    strided = x.repeat_interleave(2, dim=1)[:, ::2]
    share = _agree(subject(strided), y, "a strided view of the input gives a different output")
    with training(subject):
        text = "train mode gives a different output than eval mode (dropout is off)"
        share = max(share, _agree(subject(x), y, text))
    if subject.mixes or subject.pools:
        with sdpa_kernel([SDPBackend.MATH]):
            text = "the math backend of attention gives a different output than the default one"
            share = max(share, _agree(subject(x), y, text))
    return share


def _agree(a: Tensor, b: Tensor, text: str) -> float:
    return _within(ratio(a - b, b), tolerances.SAME_OPERATIONS, text)


def _within(size: float, limit: tolerances.Tolerance, text: str) -> Share:
    if not size <= limit.bound:
        raise Broken(text, size=size, bound=limit.bound, unit=f"of {limit.of}")
    return Share(size, limit.bound, limit.of)


def _gradients(subject: Subject, x: Tensor) -> None:
    """Autograd against differences, in random directions, for the input and every parameter."""
    parameters = {name: p.detach().clone().requires_grad_() for name, p in subject.module.named_parameters()}

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = subject.module

        def forward(self, x: Tensor) -> Tensor:
            return subject(x)

    def function(*inputs: Tensor) -> Any:
        values = {f"module.{name}": value for name, value in zip(parameters, inputs, strict=False)}
        return torch.func.functional_call(wrapped, values, inputs[len(parameters) :] or (x,))

    wrapped = Wrapped()
    inputs = [*parameters.values(), *([x.clone().requires_grad_()] if x.is_floating_point() else [])]
    if not inputs:
        return
    try:
        torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Broken(f"autograd disagrees with finite differences: {reason}") from None


@torch.no_grad()
def _compiled(subject: Subject, x: Tensor) -> float:
    """Traced in one graph, run by the same operators: only what can be traced whole compiles whole."""
    y = subject(x)
    torch._dynamo.reset()
    try:
        traced = torch.compile(subject.module, backend="eager", fullgraph=True)
        twin = traced(x)
    except Exception as error:  # whatever the tracer says, in one line
        reason = " ".join(str(error).split())[:200]
        raise Broken(f"torch.compile(fullgraph=True) cannot trace the block: {reason}") from None
    finally:
        torch._dynamo.reset()
    plain = subject.module(x) if subject.reads_tokens else y
    return _agree(twin, plain, "compiled and eager outputs differ")
