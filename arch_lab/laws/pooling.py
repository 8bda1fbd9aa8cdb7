"""Isolation of poolers: the result depends only on the row's valid tokens, in order.

Legend: B batch, T tokens, D width, pads = positions where ``valid`` is False.
Part of law 4. One comparison holds it all: the tokens spread over a longer row with pads before, between and
after them give what they give alone. Pads are far from zero, and a guard asks that the tokens themselves
matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.moves import PAD_CONTENT, ratio, require_reaction
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import Subject


@torch.no_grad()
def pooling_isolation(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """The largest move of a pooled vector that should have stayed, relative to max |y|. Raises: Broken."""
    x = subject.input(max(batch, 2), tokens, seed)
    worst = max(_rows(subject, x, seed), _padding(subject, x, seed), _empty(subject, x))
    _gradient_of_pads(subject, x, seed)
    return worst


def _pool(subject: Subject, x: Tensor, valid: Tensor | None = None) -> Tensor:
    y: Tensor = subject.module(x, valid)
    if y.shape != (x.shape[0], x.shape[2]):
        shapes = f"the output has shape {tuple(y.shape)} for an input of shape {tuple(x.shape)}"
        raise Broken(f"{shapes}: expected one vector of that width per row")
    return y


def _same(expected: Tensor, output: Tensor, y: Tensor, text: str) -> float:
    """As ``require_same``; a pooled vector has no position."""
    size, limit = ratio(output - expected, y), tolerances.OTHER_SHAPE.bound
    if not size <= limit:
        raise Broken(text, size=size, bound=limit, unit="of max |y|")
    return size


def _rows(subject: Subject, x: Tensor, seed: int) -> float:
    y = _pool(subject, x)
    every = torch.ones(x.shape[:2], dtype=torch.bool)
    changed = _pool(subject, torch.cat([x[:1], subject.other(x, seed + 1)[1:]]))
    worst = max(
        _same(
            y,
            _pool(subject, x, every),
            y,
            "a mask with all tokens valid gives a different vector than no mask",
        ),
        _same(y[:1], _pool(subject, x[:1]), y, "a row gives a different vector alone than in a batch"),
        _same(y.flip(0), _pool(subject, x.flip(0)), y, "the order of batch rows changes a vector"),
        _same(y[:1], changed[:1], y, "changing another batch row moves the vector of this one"),
    )
    require_reaction(changed[1:], y[1:], y, "changing every token of a row does not change its vector")
    return worst


def spread(x: Tensor, positions: list[int], length: int, pads: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of x at ``positions`` of a row of ``length``, ``pads`` elsewhere; and the mask of tokens."""
    row, valid = pads[:, :length].clone(), torch.zeros(x.shape[0], length, dtype=torch.bool)
    row[:, positions], valid[:, positions] = x, True
    return row, valid


def _padding(subject: Subject, x: Tensor, seed: int) -> float:
    """Pads on the right, on the left and between the tokens, of two contents, change nothing."""
    tokens, worst = x.shape[1], 0.0
    y = _pool(subject, x)
    draw = torch.Generator().manual_seed(seed)
    length = tokens + 1 + int(torch.randint(4, (), generator=draw))
    positions = {
        "on the right": list(range(tokens)),
        "on the left": list(range(length - tokens, length)),
        "between the tokens": torch.randperm(length, generator=draw)[:tokens].sort().values.tolist(),
    }
    loud = PAD_CONTENT * subject.input(x.shape[0], length, seed + 1)
    for side, token_positions in positions.items():
        for content in (loud, torch.zeros_like(loud)):
            row, valid = spread(x, token_positions, length, content.to(x.dtype))
            text = f"{length - tokens} pads {side} change the vector"
            worst = max(worst, _same(y, _pool(subject, row, valid), y, text))
    return worst


def _empty(subject: Subject, x: Tensor) -> float:
    """Check that a row without tokens gives zeros and leaves the other rows unchanged."""
    y = _pool(subject, x)
    valid = torch.ones(x.shape[:2], dtype=torch.bool)
    valid[0] = False
    pooled = _pool(subject, x, valid)
    if not (pooled[0] == 0).all():
        raise Broken("a row without a valid token does not give zeros")
    return _same(y[1:], pooled[1:], y, "an empty row moves the vector of another")


@torch.enable_grad()
def _gradient_of_pads(subject: Subject, x: Tensor, seed: int) -> None:
    """Exactly zero at pads, finite everywhere, an empty row included."""
    positions, length = list(range(x.shape[1])), x.shape[1] + 2
    row, valid = spread(x, positions, length, PAD_CONTENT * subject.input(x.shape[0], length, seed + 1))
    valid[0] = False
    row.requires_grad_()
    y = _pool(subject, row, valid)
    inputs = [row, *(p for p in subject.module.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(y.square().sum(), inputs, allow_unused=True)
    if not all(bool(g.isfinite().all()) for g in gradients if g is not None):
        raise Broken("with an empty row in the batch, gradients are not finite")
    if gradients[0] is not None and gradients[0][~valid].any():
        raise Broken("the gradient with respect to padding is not zero")
