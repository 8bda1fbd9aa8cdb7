"""Laws 1 and 2 on rows of up to 1,100 tokens: a leak may wait for a threshold, a tile, or the second chunk.

Legend: B rows of one call, T tokens, s first token that changes, t output that moves.
A few rows of one batch are changed from different positions on, spread over the whole row, in evaluation mode
and in train mode with gradients recorded. Positions are drawn as for the certificate of a model
(``arch_lab.laws.lengths``).
"""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.cases import LONGEST
from arch_lab.laws.lengths import probe_lengths, sizes_of, splits
from arch_lab.laws.moves import (
    Change,
    changed_positions,
    earlier,
    first_position,
    in_batches,
    moved,
    ratio,
    scale_of,
)
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import FURTHEST, Subject, training

OTHER_CASES = (128, FURTHEST)  # what configurations after the first are tried at
SPLITS = 6
ROWS = 2


def long_lengths(subject: Subject) -> list[int]:
    """Lengths above those of the short laws: powers of two, the longest and one less, window edges."""
    longest = subject.furthest
    if longest <= LONGEST:
        return []
    if not subject.case.first:
        return [n for n in OTHER_CASES if n <= longest] or [longest]
    return [n for n in probe_lengths([longest], sizes_of(subject.module, longest)) if n > LONGEST]


def long_rows(subject: Subject, tokens: int, seed: int) -> float:
    """The largest move of an earlier output, a share of max |y|, in both modes. Raises: Broken."""
    positions = splits(tokens, SPLITS, Random(seed), sizes_of(subject.module, tokens))
    x = subject.input(1, tokens, seed).expand(ROWS, *([-1] * (1 if subject.reads_tokens else 2)))
    with torch.no_grad():
        worst = _changes(subject, x, positions, seed, "")
    with training(subject), torch.enable_grad():
        worst = max(worst, _changes(subject, x, positions, seed, " in train mode"))
        return max(worst, _gradients(subject, x, positions, seed))


def _changes(subject: Subject, x: Tensor, positions: list[int], seed: int, mode: str) -> float:
    y, worst = subject(x).detach(), 0.0
    limit = tolerances.same_length(subject.module).bound
    changes = [Change(s, True) for s in positions] + [Change(s, False) for s in positions[::3]]
    for batch in in_batches(changes, ROWS):
        batch = (batch * ROWS)[:ROWS]
        s, mask = changed_positions(batch, x.shape[1])
        rows = subject.swap(x, subject.other(x, seed + 1), mask)
        moves = moved(subject(rows).detach(), y)
        leaks = earlier(moves, s)
        worst = max(worst, leaks.max().item())
        if not leaks.max() <= limit:
            _explain(subject, x, rows, y, batch, leaks, mode)
        _reach(subject, moves, batch, limit)
    return worst


def _explain(
    subject: Subject,
    x: Tensor,
    rows: Tensor,
    y: Tensor,
    changes: list[Change],
    leaks: Tensor,
    mode: str,
) -> None:
    """Raises: Broken with the first pair. Rows that mix are left to the isolation law."""
    limit = tolerances.same_length(subject.module).bound
    i, t = first_position(leaks, limit)
    isolated = x.clone()
    isolated[i] = rows[i]
    s, size = changes[i].s, leaks[i, t].item()
    if moved(subject(isolated).detach(), y)[i, :s].max() > limit:
        raise Broken(
            f"changing {changes[i]} moves the earlier output {t}{mode}",
            size=size,
            bound=limit,
            unit="of max |y|",
            t=t,
            s=s,
        )


def _reach(subject: Subject, moves: Tensor, changes: list[Change], limit: float) -> None:
    """A declared window is as narrow in long rows."""
    window = subject.span
    if window is None:
        return
    for (s, suffix), row in zip(changes, moves, strict=True):
        beyond = row[s + window :]
        if suffix or not beyond.numel() or beyond.max() <= limit:
            continue
        t, size = s + window + int((beyond > limit).nonzero()[0]), beyond.max().item()
        message = f"window {window} is wider: output {t} moves with token {s}"
        raise Broken(message, size=size, bound=limit, unit="of max |y|", t=t, s=s)


def _gradients(subject: Subject, x: Tensor, positions: list[int], seed: int) -> float:
    """d y[i, :s] / d x[i, s:] for the first and a middle position; token ids have no gradient."""
    if not x.is_floating_point():
        return 0.0
    first_and_middle = [positions[0], positions[len(positions) // 2]]
    x = x.clone().requires_grad_()
    y = subject(x)
    if not y.requires_grad:
        return 0.0
    past = torch.arange(x.shape[1]) < torch.tensor(first_and_middle)[:, None]
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    limit, worst = tolerances.gradient(subject.module).bound, 0.0
    for i, s in enumerate(first_and_middle):  # row by row: a sum over rows that mix would look like time
        weighted = (y * weights * past[..., None])[i].sum()
        (g,) = torch.autograd.grad(weighted, x, retain_graph=True, materialize_grads=True)
        worst = max(worst, _later_share(g[i], s, limit))
    return worst


def _later_share(g: Tensor, s: int, limit: float) -> float:
    """Share of the gradient (T, D) of outputs before ``s`` that lies at ``s`` or later. Raises: Broken."""
    sizes, scale = g.abs().amax(dim=1), scale_of(g)
    leak = ratio(sizes[s:], g)
    if not leak <= limit:
        position = s + int((~(sizes[s:] <= limit * scale)).nonzero()[0])
        text = f"outputs before {s} have a gradient with respect to the later token {position}"
        raise Broken(text, size=leak, bound=limit, unit="of the largest gradient", t=s - 1, s=position)
    return leak
