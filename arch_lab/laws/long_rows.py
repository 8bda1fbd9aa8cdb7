"""Laws 1 and 2 on rows of up to 1,100 tokens: a leak may wait for a threshold, a tile, or the second chunk.

Legend: B rows of one call, T tokens, s split, t output that moved.
A few rows of one batch are changed from different splits on, spread over the whole row, in evaluation mode and in train mode with
gradients recorded. The splits are those of a study's certificate (``arch_lab.laws.lengths``).
"""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.cases import LONGEST
from arch_lab.laws.lengths import probe_lengths, sizes_of, splits
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import FURTHEST, TINY, Subject, ratio, scale_of, training

OTHER_CASES = (128, FURTHEST)  # what configurations after the first are tried at
SPLITS = 6
ROWS = 2


def long_lengths(subject: Subject) -> list[int]:
    """Lengths above those of the short laws, ascending: powers of two, one token less than the longest, edges of windows."""
    longest = subject.furthest
    if longest <= LONGEST:
        return []
    if not subject.case.first:
        return [n for n in OTHER_CASES if n <= longest] or [longest]
    return [n for n in probe_lengths([longest], sizes_of(subject.module, longest)) if n > LONGEST]


def long_rows(subject: Subject, tokens: int, seed: int) -> float:
    """The largest move of an earlier output, relative to max |y|, at one long length in both modes. Raises: Broken."""
    draw = Random(seed)
    chosen = splits(tokens, SPLITS, draw, sizes_of(subject.module, tokens))
    x = subject.input(1, tokens, seed).expand(ROWS, *([-1] * (1 if subject.reads_tokens else 2)))
    with torch.no_grad():
        worst = _changes(subject, x, chosen, seed, "")
    with training(subject), torch.enable_grad():
        worst = max(worst, _changes(subject, x, chosen, seed, " in train mode"), _gradients(subject, x, chosen, seed))
    return worst


def _changes(subject: Subject, x: Tensor, chosen: list[int], seed: int, mode: str) -> float:
    base = subject(x).detach()
    limit, unit, worst = tolerances.same_length(subject.module).bound, max(scale_of(base), TINY), 0.0
    changes = [(s, True) for s in chosen] + [(s, False) for s in chosen[::3]]
    t = torch.arange(x.shape[1])
    for first in range(0, len(changes), ROWS):
        part = (changes[first : first + ROWS] * ROWS)[:ROWS]
        s, suffix = torch.tensor([a for a, _ in part])[:, None], torch.tensor([b for _, b in part])[:, None]
        rows = subject.swap(x, subject.other(x, seed + 1), (t == s) | ((t > s) & suffix))
        moved = _moved(subject(rows).detach(), base)
        before = torch.where(t < s, moved, 0.0)
        worst = max(worst, ratio(before, base))
        if not before.max() <= limit * unit:
            _explain(subject, x, rows, base, part, before, mode)
        _reach(subject, moved, part, unit, limit)
    return worst


def _moved(after: Tensor, before: Tensor) -> Tensor:
    return torch.nan_to_num((after - before).abs().flatten(2).amax(dim=2), nan=float("inf"))


def _explain(subject: Subject, x: Tensor, rows: Tensor, base: Tensor, part: list[tuple[int, bool]], before: Tensor, mode: str) -> None:
    """Raises: Broken with the first pair. Rows that move only when others change mix: no leak in time, and isolation's business."""
    limit, unit = tolerances.same_length(subject.module).bound, max(scale_of(base), TINY)
    i = int((~(before <= limit * unit)).any(dim=1).nonzero()[0])
    t = int((~(before[i] <= limit * unit)).nonzero()[0])
    alone = x.clone()
    alone[i] = rows[i]
    s, suffix = part[i]
    if not _moved(subject(alone).detach(), base)[i, :s].max() > limit * unit:
        return
    what = f"the tokens from {s} on" if suffix else f"token {s}"
    size = before[i, t].item() / unit
    raise Broken(f"changing {what} moves the earlier output {t}{mode}", size=size, bound=limit, unit="of max |y|", t=t, s=s)


def _reach(subject: Subject, moved: Tensor, part: list[tuple[int, bool]], unit: float, limit: float) -> None:
    """A declared window is as narrow in long rows."""
    window = subject.window
    for (s, suffix), row in zip(part, moved, strict=True):
        beyond = row[s + window :] if window and not suffix else row[:0]
        if beyond.numel() and not beyond.max() <= limit * unit:
            t = s + (window or 0) + int((beyond > limit * unit).nonzero()[0])
            size = beyond.max().item() / unit
            raise Broken(f"window {window} is wider: output {t} moves with token {s}", size=size, bound=limit, unit="of max |y|", t=t, s=s)


def _gradients(subject: Subject, x: Tensor, chosen: list[int], seed: int) -> float:
    """d y[i, :s] / d x[i, s:] for the first and a middle split; token ids have no gradient."""
    if not x.is_floating_point():
        return 0.0
    picked = [chosen[0], chosen[len(chosen) // 2]]
    x = x.clone().requires_grad_()
    y = subject(x)
    if not y.requires_grad:
        return 0.0
    later = torch.arange(x.shape[1]) >= torch.tensor(picked)[:, None]
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(y.dtype)
    limit, worst = tolerances.gradient(subject.module).bound, 0.0
    for i in range(len(picked)):  # row by row: a sum over rows that mix would look like time
        (g,) = torch.autograd.grad((y * weights * ~later[..., None])[i].sum(), x, retain_graph=True, materialize_grads=True)
        worst = max(worst, _later(g[i], picked[i], limit))
    return worst


def _later(g: Tensor, s: int, limit: float) -> float:
    """Share of the gradient (T, D) of outputs before ``s`` that lies at ``s`` or later. Raises: Broken."""
    sizes, scale = g.abs().amax(dim=1), scale_of(g)
    leak = ratio(sizes[s:], g)
    if not leak <= limit:
        later = s + int((~(sizes[s:] <= limit * scale)).nonzero()[0])
        text = f"outputs before {s} have a gradient with respect to the later token {later}"
        raise Broken(text, size=leak, bound=limit, unit="of the largest gradient", t=s - 1, s=later)
    return leak
