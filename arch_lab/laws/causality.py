"""Laws 1 and 2: the future never reaches the past, and a prefix gives the prefix of the output.

Legend: B batch, T tokens, s position changed, t position that reacted, w window.
Protocol: at every position s in turn, x[s] alone and the whole suffix x[s:] are replaced; outputs before s must stay and
outputs from s on must react. Every s, because a block mean hides behind prefixes aligned to it; single positions and
suffixes, because an FFT padded to 2T-2 shows only last token -> first output, and a hard selection only a suffix.
Second witness, gradients: sharp where a perturbation is small, blind to selections. A block must pass both.
Repeated in train mode, with one document spelled out as segments, and in float32: masks get lost in one mode only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.cases import LONGEST
from arch_lab.laws.long_rows import long_rows
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import TINY, Subject, first_position, ratio, scale_of, takes_segments, training

LOUD = 64.0  # times the size of what a token is replaced by, where small changes do not show

FEW = 8  # tokens up to which every change is also run as a batch of its own: some masks are skipped at batch one
MODES = 33  # tokens up to which train mode, segments and float32 are tried as well
GRADIENTS_AT_ALL = 17  # tokens up to which the gradient of every output is taken


def causality(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """The largest move of an earlier output seen, relative to max |y|. Raises: Broken."""
    if tokens > subject.longest:
        return long_rows(subject.reaching(tokens), tokens, seed)
    x = subject.input(batch, tokens, seed)
    _one_output_a_token(x, subject(x))
    worst = _changes(subject, x, seed, "", alone=tokens <= FEW)
    if tokens > MODES:
        return max(worst, _gradients(subject, x, seed))
    with training(subject):
        _repeats(subject, x)
        worst = max(worst, _changes(subject, x, seed, " in train mode"))
    if subject.mixes:
        one_document = torch.ones(batch, tokens, dtype=torch.long)
        if "isolation" not in subject.declared and takes_segments(subject.module):  # else it must refuse them
            worst = max(worst, _changes(subject, x, seed, " with segments given", segments=one_document))
        _changes(subject.cast(torch.float32), _single(x), seed, " in float32")  # its own scale: no part of the worst number
    return max(worst, _gradients(subject, x, seed))


@torch.no_grad()
def _repeats(subject: Subject, x: Tensor) -> None:
    """The same input twice: a difference is no leak in time, and hides one."""
    first, second = subject(x), subject(x)
    difference = ratio(second - first, first)
    limit = tolerances.same_length(subject.module).bound
    if not difference <= limit:
        raise Broken(
            "train mode gives a different output for the same input the second time: noise, or memory of an earlier call "
            "(dropout belongs in an option `dropout`, which the laws set to 0)",
            size=difference,
            bound=limit,
            unit="of max |y|",
        )


def _one_output_a_token(x: Tensor, y: Tensor) -> None:
    if y.shape[:2] != x.shape[:2]:
        raise Broken(f"the output has shape {tuple(y.shape)} for an input of shape {tuple(x.shape)}: expected one output per token")


def _single(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


@torch.no_grad()
def _changes(subject: Subject, x: Tensor, seed: int, mode: str, *, alone: bool = False, segments: Tensor | None = None) -> float:
    batch, tokens = x.shape[:2]
    limit = tolerances.same_length(subject.module, single=subject.dtype == torch.float32)
    other = subject.other(x, seed + 1)
    s_all = torch.arange(tokens)
    worst = 0.0
    for suffix in (False, True):
        rows = torch.stack([subject.swap(x, other, (s_all >= s if suffix else s_all == s)[None]) for s in range(tokens)])
        # the unchanged rows stand in a batch of the same shape: only then are outputs comparable bit by bit
        before = _run(subject, x.expand(tokens, *x.shape), segments, together=True)
        after = _run(subject, rows, segments, together=True)
        try:
            worst = max(worst, _compare(before, after, suffix, mode, limit))
        except Broken:
            # rows of this batch change at different s: where rows mix, that looks like time. Alone they cannot meet
            after_alone = _run(subject, rows, segments, together=False)
            _compare(subject(x, segments).expand_as(after_alone), after_alone, suffix, mode, limit)
        if suffix:
            _alive_or_deaf(subject, x, other, before, after, segments, mode)
        elif subject.window is not None:
            _reach(before, after, subject.window, limit)
        if alone:
            after = _run(subject, rows, segments, together=False)
            base = subject(x, segments).expand_as(after)
            worst = max(worst, _compare(base, after, suffix, mode + f" at batch {batch}", limit))
    return worst


def _run(subject: Subject, rows: Tensor, segments: Tensor | None, *, together: bool) -> Tensor:
    """Outputs (S, B, T, …) of S variants (S, B, T, …) of one input, in one batch or each by itself."""
    if together:
        many = None if segments is None else segments.repeat(len(rows), 1)
        y = subject(rows.flatten(0, 1), many)
        return y.unflatten(0, rows.shape[:2])
    return torch.stack([subject(row, segments) for row in rows])


def _compare(before: Tensor, after: Tensor, suffix: bool, mode: str, limit: tolerances.Tolerance) -> float:
    """Outputs before s, for every s (the first axis): the largest move, or Broken with the first pair."""
    tokens = before.shape[2]
    past = torch.ones(tokens, tokens, dtype=torch.bool).tril(-1)  # [s, t]: t < s
    moved = torch.where(past[:, None], (after - before).abs().flatten(3).amax(dim=3), 0.0).amax(dim=1)
    unit = max(scale_of(before), TINY)
    bound = limit.bound * unit
    worst = ratio(moved, before)
    if not worst * unit <= bound:
        s, t = first_position(moved, bound)
        kind = f"changing the tokens from {s} on" if suffix else f"changing token {s}"
        size = moved[s, t].item() / unit
        raise Broken(f"{kind} moves the earlier output {t}{mode}", size=size, bound=limit.bound, unit="of max |y|", t=t, s=s)
    return worst


def _alive_or_deaf(subject: Subject, x: Tensor, other: Tensor, before: Tensor, after: Tensor, segments: Tensor | None, mode: str) -> None:
    """A block may be deaf to small changes, as a running maximum is late in a row: then large ones must show."""
    try:
        _alive(before, [after], mode)
    except Broken:
        if not x.is_floating_point():
            raise
        at = torch.arange(x.shape[1])
        rows = [torch.stack([subject.swap(x, loud * other, (at >= s)[None]) for s in at.tolist()]) for loud in (LOUD, -LOUD)]
        _alive(before, [after, *(_run(subject, row, segments, together=True) for row in rows)], mode)


def _alive(before: Tensor, afters: list[Tensor], mode: str) -> None:
    """Replacing at least the last two tokens must show in them: a delay of one is legal, a dead block is not."""
    tokens, unit = before.shape[2], max(scale_of(before), TINY)
    for s in range(tokens - 1):
        reaction = max(ratio(after[s, :, s:] - before[s, :, s:], before) for after in afters)
        if not reaction >= tolerances.LIVE.bound:
            raise Broken(
                f"outputs from {s} on do not react when all tokens from {s} on change{mode}: a dead block (max |y| is {unit:.1g})",
                size=reaction,
                bound=tolerances.LIVE.bound,
                unit="of max |y|, required at least",
                t=s,
                s=s,
            )


def _reach(before: Tensor, after: Tensor, window: int, limit: tolerances.Tolerance) -> None:
    """A declared window of w keys: y[s + w - 1] feels x[s], y[s + w] does not."""
    tokens, unit = before.shape[2], max(scale_of(before), TINY)
    moved = (after - before).abs().flatten(3).amax(dim=(1, 3)) / unit  # [s, t]
    distance = torch.arange(tokens)[None, :] - torch.arange(tokens)[:, None]
    beyond = torch.where(distance >= window, moved, 0.0)
    if not beyond.max() <= limit.bound:
        s, t = divmod(int((beyond > limit.bound).flatten().nonzero()[0]), tokens)
        raise Broken(
            f"window {window} reaches {t - s + 1} keys: output {t} moves with token {s}",
            size=beyond[s, t].item(),
            bound=limit.bound,
            unit="of max |y|",
            t=t,
            s=s,
        )
    edge = moved[distance == window - 1]
    if edge.numel() and not edge.max() > tolerances.REACH.bound:
        raise Broken(
            f"window {window} is narrower than declared: no output reacts to the token {window - 1} before it",
            size=edge.max().item(),
            bound=tolerances.REACH.bound,
            unit="of max |y|, required at least",
            t=window - 1,
            s=0,
        )


def _gradients(subject: Subject, x: Tensor, seed: int) -> float:
    """Largest |d y[t] / d x[>t]| relative to the largest gradient. Token ids have none: there the perturbations decide."""
    if not x.is_floating_point():
        return 0.0
    tokens, limit = x.shape[1], tolerances.gradient(subject.module)
    x = x.clone().requires_grad_()
    y = subject(x)
    if not y.requires_grad:
        return 0.0
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(y.dtype)
    positions = range(tokens) if tokens <= GRADIENTS_AT_ALL else sorted({0, tokens // 3, tokens // 2, tokens - 2})
    worst = 0.0
    for t in positions:
        (g,) = torch.autograd.grad((y[:, t] * weights[:, t]).sum(), x, retain_graph=True, materialize_grads=True)
        leak = ratio(g[:, t + 1 :], g)
        worst = max(worst, leak)
        if not leak <= limit.bound:
            _, later = first_position(g[:, t + 1 :], limit.bound * scale_of(g))
            raise Broken(
                f"the gradient of output {t} with respect to the later token {t + 1 + later} is not zero",
                size=leak,
                bound=limit.bound,
                unit="of the largest gradient",
                t=t,
                s=t + 1 + later,
            )
    return worst


@torch.no_grad()
def prefix_consistency(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """block(x[:, :n]) = block(x)[:, :n]: catches what depends on the length itself, which no change at equal length shows."""
    subject = subject.reaching(tokens)
    x = subject.input(batch, tokens, seed)
    y = subject(x)
    _one_output_a_token(x, y)
    limit, worst = tolerances.other_shape(subject.module).bound, 0.0
    for n in _prefixes(tokens):
        difference = subject(x[:, :n]) - y[:, :n]
        size = ratio(difference, y)
        worst = max(worst, size)
        if not size <= limit:
            _, t = first_position(difference, limit * scale_of(y))
            raise Broken(
                f"the first {n} tokens alone give a different output {t} than the same tokens in a sequence of {tokens}",
                size=size,
                bound=limit,
                unit="of max |y|",
                t=t,
                s=n,
            )
    return worst


def _prefixes(tokens: int) -> list[int]:
    if tokens <= GRADIENTS_AT_ALL:
        return list(range(1, tokens))
    if tokens > LONGEST:
        return sorted({n for n in (64, 65, 128, tokens // 2, tokens - 1) if n < tokens})
    return sorted({n for n in (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, tokens - 2, tokens - 1) if 0 < n < tokens})
