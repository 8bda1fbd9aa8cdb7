"""One way to differentiate every operator: by its backward operator, and that one again by the reference.

The forward operator takes its tensors, the choice (and what else it wants); it returns y and further outputs
kept for the backward pass.
The backward operator takes the gradient of y, the tensors, what was kept, which gradients are needed, and the
choice; it returns one gradient a tensor, empty where none is needed. It is itself differentiated through the
reference: rare, so readable wins over fast.

An operator costs about 50 µs to call, its gradient again, which is as long as a product of a few hundred rows
takes. The cpu implementations therefore run as an ``autograd.Function`` of the same two bodies where nothing
traces or counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blocks.dispatch import is_plain_eager

Body = Callable[..., Any]


def attach(
    forward: Any,
    backward: Any,
    reference: Callable[..., Tensor],
    *,
    tensors: int,
    saved: int = 0,
) -> None:
    """Give both operators their gradients, and the backward one its fake.

    ``tensors``: how many leading inputs are tensors; ``saved``: how many outputs follow y.
    """

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        extra = output[1:] if saved else ()
        ctx.mark_non_differentiable(*extra)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:tensors], *extra)
        ctx.choice, ctx.inputs = inputs[tensors], len(inputs)

    def pull(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * ctx.inputs
        need = list(ctx.needs_input_grad[:tensors])
        gradients = backward(gradient, *ctx.saved_tensors, need, ctx.choice)
        return (
            *(g if needed else None for g, needed in zip(gradients, need, strict=True)),
            *(None,) * (ctx.inputs - tensors),
        )

    def keep_again(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[: 1 + tensors])
        ctx.set_materialize_grads(False)
        ctx.need, ctx.inputs = inputs[1 + tensors + saved], len(inputs)

    def pull_again(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient, *inputs_saved = ctx.saved_tensors
        requested = [i for i in range(tensors) if ctx.need[i] and cotangents[i] is not None]
        present = [i for i in range(tensors) if inputs_saved[i] is not None]
        if not requested:
            return (None,) * ctx.inputs

        def first(gradient: Tensor, *some: Tensor) -> tuple[Tensor, ...]:
            def call(*requested_inputs: Tensor) -> Tensor:
                full = list(inputs_saved)
                for i, t in zip([*present, *requested], [*some, *requested_inputs], strict=True):
                    full[i] = t
                return reference(*full)

            pull_one: Any = torch.func.vjp(call, *(some[present.index(i)] for i in requested))[1]
            return tuple(pull_one(gradient))

        pull_two: Any = torch.func.vjp(first, gradient, *(inputs_saved[i] for i in present))[1]
        of_gradient, *of_tensors = pull_two(tuple(cotangents[i] for i in requested))
        results: list[Tensor | None] = [None] * ctx.inputs
        results[0] = of_gradient
        for i, t in zip(present, of_tensors, strict=True):
            results[1 + i] = t
        return tuple(results)

    def fake(gradient: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        need = arguments[tensors + saved]
        return tuple(
            t.new_empty(t.shape) if needed else gradient.new_empty(0)
            for t, needed in zip(arguments[:tensors], need, strict=True)
        )

    backward.register_fake(fake)
    forward.register_autograd(pull, setup_context=keep)
    backward.register_autograd(pull_again, setup_context=keep_again)


def on_rows(forward: Any, backward: Any, run: Body, run_backward: Body, *, name: str, tensors: int) -> Body:
    """What to call for an operator on rows (M, D) with inputs (..., D).

    On processors the two bodies run without their operators, as the graph node ``name``.
    """

    # one method, not two: torch binds the signature of a forward that has a setup_context at every call
    def run_and_keep(ctx: Any, x: Tensor, *others: Any) -> Tensor:
        output = run(rows_of(x), *others)
        y, *extra = output if isinstance(output, tuple) else (output,)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *others[: tensors - 1], *extra)
        ctx.choice, ctx.others = others[tensors - 1], len(others)
        return y.view(*x.shape[:-1], y.shape[-1])

    def pull(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * (1 + ctx.others)
        x, *stored = ctx.saved_tensors
        need = list(ctx.needs_input_grad[:tensors])
        # a second derivative needs the operator, which knows its own gradient
        body = backward if torch.is_grad_enabled() else run_backward
        dx, *gradients = body(rows_of(gradient), rows_of(x), *stored, need, ctx.choice)
        return (
            dx.view(x.shape) if need[0] else None,
            *(g if needed else None for g, needed in zip(gradients, need[1:], strict=True)),
            *(None,) * (1 + ctx.others - tensors),
        )

    methods: dict[str, Body] = {"forward": run_and_keep, "backward": pull}
    direct: Any = type(name, (torch.autograd.Function,), {k: staticmethod(f) for k, f in methods.items()})

    def call(x: Tensor, *others: Any) -> Tensor:
        if others[tensors - 1].startswith("cpu") and is_plain_eager():
            return direct.apply(x, *others)  # type: ignore[no-any-return]
        output = forward(rows_of(x), *others)
        y: Tensor = output[0] if isinstance(output, tuple) else output
        return y.view(*x.shape[:-1], y.shape[-1])

    return call


def rows_of(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.reshape(x.shape[:-1].numel(), x.shape[-1])


def with_saved(outputs: Any, keep: bool, like: Tensor, saved: int) -> tuple[Tensor, ...]:
    """An operator's outputs from an implementation's: y and ``saved`` more, or y alone, as of kernels. Empty
    where none is kept.
    """
    y, *extra = outputs if isinstance(outputs, tuple) else (outputs,)
    return (y, *(extra if keep else (like.new_empty(0) for _ in range(saved))))


def or_empty(gradients: Any, like: Tensor) -> tuple[Tensor, ...]:
    """Tensors for an operator to return, empty ones for unneeded gradients."""
    return tuple(like.new_empty(0) if g is None else g for g in gradients)
