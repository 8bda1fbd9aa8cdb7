"""Changes of a row's tokens, and the distance that its outputs move.

Legend: B rows, T tokens, D width, s first token that changes, t output that moves.
Everything is a share of the largest |y|, for the reasons in ``arch_lab.laws.tolerances``. What is not a
number counts as infinitely far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.result import Broken

PAD_CONTENT = 50.0  # finite and large: what the embedding of a padding token may grow to
TINY = 1e-300  # keeps an all-zero output from dividing by zero; it then fails as dead


class Change(NamedTuple):
    """One change of a row: the tokens from ``s`` on, or token ``s`` only."""

    s: int
    suffix: bool

    def __str__(self) -> str:
        return f"the tokens from {self.s} on" if self.suffix else f"token {self.s}"


def changed_positions(changes: Sequence[Change], tokens: int) -> tuple[Tensor, Tensor]:
    """First changed position (N, 1) and all changed positions (N, T, bool) of each of N changes."""
    t = torch.arange(tokens)
    s = torch.tensor([change.s for change in changes])[:, None]
    suffix = torch.tensor([change.suffix for change in changes])[:, None]
    return s, (t == s) | ((t > s) & suffix)


def in_batches(changes: Sequence[Change], count: int) -> list[list[Change]]:
    """``changes`` in lists of at most ``count``."""
    return [list(changes[first : first + count]) for first in range(0, len(changes), count)]


def moved(output: Tensor, reference: Tensor) -> Tensor:
    """Move of each output (B, T) in shares of the largest |reference|; D and what follows it are reduced."""
    scale = max(reference.abs().max().item(), TINY)
    return torch.nan_to_num((output - reference).abs().flatten(2).amax(dim=2) / scale, nan=float("inf"))


def earlier(moves: Tensor, s: Tensor) -> Tensor:
    """``moves`` (B, T) of the outputs before s (B, 1); 0 from there on."""
    return torch.where(torch.arange(moves.shape[1]) < s, moves, 0.0)


def ratio(difference: Tensor, y: Tensor) -> float:
    """max |difference| / max |y|: infinite if anything is not a number, 0 if there is nothing to compare."""
    if not difference.numel():
        return 0.0
    largest = difference.abs().max().item()
    if largest != largest:
        return float("inf")
    return largest / max(scale_of(y), TINY) if largest else 0.0


def scale_of(y: Tensor) -> float:
    """max |y|, the unit of every tolerance; NaN counts as infinite."""
    largest = y.abs().max().item() if y.numel() else 0.0
    return largest if largest == largest else float("inf")


def first_position(difference: Tensor, limit: float) -> tuple[int, int]:
    """(row, position) of the earliest position whose difference (B, T) or (B, T, …) exceeds ``limit``."""
    size = difference.abs().flatten(2).amax(dim=2) if difference.ndim > 2 else difference.abs()
    exceeds = ~(size <= limit)  # not >, so that NaN counts as moved
    if not exceeds.any():
        return 0, 0
    t = int(exceeds.any(dim=0).nonzero()[0])
    return int(exceeds[:, t].nonzero()[0]), t


def require_same(
    expected: Tensor,
    output: Tensor,
    y: Tensor,
    limit: float,
    text: str,
    *,
    s: int | None = None,
    shift: int = 0,
) -> float:
    """The largest |output - expected| (B, T, …), as a share of max |y|.

    Raises: Broken above ``limit``; ``{t}`` in ``text`` becomes the first position that differs, counted from
    ``shift``.
    """
    difference = output - expected
    size = ratio(difference, y)
    if not size <= limit:
        t = first_position(difference, limit * scale_of(y))[1] + shift
        raise Broken(text.format(t=t), size=size, bound=limit, unit="of max |y|", t=t, s=s)
    return size


def require_reaction(output: Tensor, reference: Tensor, y: Tensor, text: str) -> None:
    """Raises: Broken with ``text`` where what was changed itself moves an output too little."""
    reaction = ratio(output - reference, y)
    if not reaction >= tolerances.LIVE.bound:
        raise Broken(text, size=reaction, bound=tolerances.LIVE.bound, unit="of max |y|, required at least")
