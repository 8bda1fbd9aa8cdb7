"""Isolation of poolers: the pooled vector knows the valid tokens of its own row, in order, and nothing else.

Legend: B batch, T tokens, D width, pads = positions where ``valid`` is False.
Part of law 4. One comparison holds it all: the tokens spread over a longer row with pads before, between and after them give
what they give alone. Pads are far from zero, and a guard asks that the tokens themselves matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import Subject, ratio

PAD_CONTENT = 50.0  # as in arch_lab.laws.isolation


@torch.no_grad()
def pooling_isolation(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """The largest move of a pooled vector that should have stayed, relative to max |y|. Raises: Broken."""
    x = subject.input(max(batch, 2), tokens, seed)
    worst = max(_rows(subject, x, seed), _padding(subject, x, seed), _empty(subject, x, seed))
    _gradient_of_pads(subject, x, seed)
    return worst


def _pool(subject: Subject, x: Tensor, valid: Tensor | None = None) -> Tensor:
    y: Tensor = subject.module(x, valid)
    if y.shape != (x.shape[0], x.shape[2]):
        raise Broken(
            f"the output has shape {tuple(y.shape)} for an input of shape {tuple(x.shape)}: expected one vector of that width per row"
        )
    return y


def _rows(subject: Subject, x: Tensor, seed: int) -> float:
    y = _pool(subject, x)
    limit = tolerances.OTHER_SHAPE.bound
    every = torch.ones(x.shape[:2], dtype=torch.bool)
    worst = _same(y, _pool(subject, x, every), y, limit, "a mask with all tokens valid gives a different vector than no mask")
    worst = max(worst, _same(y[:1], _pool(subject, x[:1]), y, limit, "a row gives a different vector alone than in a batch"))
    worst = max(worst, _same(y.flip(0), _pool(subject, x.flip(0)), y, limit, "the order of batch rows changes a vector"))
    other = subject.other(x, seed + 1)
    after = _pool(subject, torch.cat([x[:1], other[1:]]))
    worst = max(worst, _same(y[:1], after[:1], y, limit, "changing another batch row moves the vector of this one"))
    reaction = ratio(after[1:] - y[1:], y)
    if not reaction >= tolerances.LIVE.bound:
        text, unit = "changing every token of a row does not change its vector", "of max |y|, required at least"
        raise Broken(text, size=reaction, bound=tolerances.LIVE.bound, unit=unit)
    return worst


def spread(x: Tensor, places: list[int], length: int, pads: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of x at ``places`` of a row of ``length``, ``pads`` elsewhere; and the mask that says so."""
    row, valid = pads[:, :length].clone(), torch.zeros(x.shape[0], length, dtype=torch.bool)
    row[:, places] = x
    valid[:, places] = True
    return row, valid


def _padding(subject: Subject, x: Tensor, seed: int) -> float:
    tokens, worst = x.shape[1], 0.0
    y = _pool(subject, x)
    draw = torch.Generator().manual_seed(seed)
    longest = tokens + 1 + int(torch.randint(4, (), generator=draw))
    scattered = torch.randperm(longest, generator=draw)[:tokens].sort().values.tolist()
    right, left = list(range(tokens)), list(range(longest - tokens, longest))
    for side, places in (("on the right", right), ("on the left", left), ("between the tokens", scattered)):
        for content in (PAD_CONTENT * subject.input(x.shape[0], longest, seed + 1), torch.zeros(x.shape[0], longest, x.shape[2])):
            row, valid = spread(x, places, longest, content.to(x.dtype))
            text = f"{longest - tokens} pads {side} change the vector"
            worst = max(worst, _same(y, _pool(subject, row, valid), y, tolerances.OTHER_SHAPE.bound, text))
    return worst


def _empty(subject: Subject, x: Tensor, seed: int) -> float:
    """A row without a token gives zeros, and does its neighbours no harm."""
    y = _pool(subject, x)
    valid = torch.ones(x.shape[:2], dtype=torch.bool)
    valid[0] = False
    found = _pool(subject, x, valid)
    if not (found[0] == 0).all():
        raise Broken("a row without a valid token does not give zeros")
    return _same(y[1:], found[1:], y, tolerances.OTHER_SHAPE.bound, "an empty row moves the vector of another")


@torch.enable_grad()
def _gradient_of_pads(subject: Subject, x: Tensor, seed: int) -> None:
    """Exactly zero at pads, finite everywhere, an empty row in the batch included: training sees gradients, not outputs."""
    places, longest = list(range(x.shape[1])), x.shape[1] + 2
    row, valid = spread(x, places, longest, PAD_CONTENT * subject.input(x.shape[0], longest, seed + 1))
    valid[0] = False
    row.requires_grad_()
    y = _pool(subject, row, valid)
    wanted = [row, *(p for p in subject.module.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(y.square().sum(), wanted, allow_unused=True)
    if not all(bool(g.isfinite().all()) for g in gradients if g is not None):
        raise Broken("with an empty row in the batch, gradients are not finite")
    if gradients[0] is not None and gradients[0][~valid].any():
        raise Broken("the gradient with respect to padding is not zero")


def _same(expected: Tensor, found: Tensor, y: Tensor, limit: float, text: str) -> float:
    size = ratio(found - expected, y)
    if not size <= limit:
        raise Broken(text, size=size, bound=limit, unit="of max |y|")
    return size
