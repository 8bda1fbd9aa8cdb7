"""Laws 1 and 2: the future never reaches the past, and a prefix gives the prefix of the output.

Legend: B batch, T tokens, s position changed, t position that reacted, w window.
Protocol: at every position s in turn, x[s] alone and the whole suffix x[s:] are replaced; outputs before s
must stay and outputs from s on must react. Every s, because a block mean hides behind prefixes aligned to it;
single positions and suffixes, because an FFT padded to 2T-2 shows only last token -> first output, and a
selection only a suffix. Second witness, gradients: sharp where a perturbation is small, blind to selections.
A block must pass both. Repeated in train mode, with one document spelled out as segments, and in float32:
some masks get lost in one of them. A whole model is held to the same law by ``arch_lab.laws.certificate``, at
the lengths it trains and is scored at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.cases import LONGEST
from arch_lab.laws.long_rows import long_rows
from arch_lab.laws.moves import TINY, Change, changed_positions, first_position, ratio, scale_of
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import Subject, takes_segments, training

NOT_REPEATED = "a different output for the same input the second time"
LOUD = 64.0  # times the size of what a token is replaced by, where small changes do not show

FEW = 8  # tokens up to which every change is also a batch of its own: some masks are skipped at batch one
MODES = 33  # tokens up to which train mode, segments and float32 are tried as well
GRADIENTS_AT_ALL = 17  # tokens up to which the gradient of every output is taken


def causality(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """The largest move of an earlier output seen, relative to max |y|. Raises: Broken."""
    if tokens > subject.longest:
        return long_rows(subject.reaching(tokens), tokens, seed)
    x = subject.input(batch, tokens, seed)
    _one_output_a_token(x, subject(x))
    worst = _changes(subject, x, seed, "", single=tokens <= FEW)
    if tokens > MODES:
        return max(worst, _gradients(subject, x, seed))
    with training(subject):
        _repeats(subject, x)
        worst = max(worst, _changes(subject, x, seed, " in train mode"))
    if subject.mixes:
        one_document = torch.ones(batch, tokens, dtype=torch.long)
        if "isolation" not in subject.declared and takes_segments(subject.module):  # else it must refuse them
            worst = max(worst, _changes(subject, x, seed, " with segments given", segments=one_document))
        # on a scale of its own, so no part of the worst number
        _changes(subject.cast(torch.float32), _in_float32(x), seed, " in float32")
    return max(worst, _gradients(subject, x, seed))


@torch.no_grad()
def _repeats(subject: Subject, x: Tensor) -> None:
    """The same input twice: a difference is no leak in time, and hides one."""
    first, second = subject(x), subject(x)
    difference = ratio(second - first, first)
    limit = tolerances.same_length(subject.module).bound
    if not difference <= limit:
        raise Broken(
            f"train mode gives {NOT_REPEATED}: noise, or memory of an earlier call "
            "(dropout belongs in an option `dropout`, which the laws set to 0)",
            size=difference,
            bound=limit,
            unit="of max |y|",
        )


def _one_output_a_token(x: Tensor, y: Tensor) -> None:
    if y.shape[:2] != x.shape[:2]:
        shapes = f"the output has shape {tuple(y.shape)} for an input of shape {tuple(x.shape)}"
        raise Broken(f"{shapes}: expected one output per token")


def _in_float32(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x


@torch.no_grad()
def _changes(
    subject: Subject,
    x: Tensor,
    seed: int,
    mode: str,
    *,
    single: bool = False,
    segments: Tensor | None = None,
) -> float:
    """The largest move of an earlier output for every position and both kinds of change. Raises: Broken."""
    batch, tokens = x.shape[:2]
    limit = tolerances.same_length(subject.module, single=subject.dtype == torch.float32)
    other = subject.other(x, seed + 1)
    worst = 0.0
    for suffix in (False, True):
        rows = _changed(subject, x, other, suffix)
        # the unchanged rows stand in a batch of the same shape: only then are outputs comparable bit by bit
        y = _together(subject, x.expand(tokens, *x.shape), segments)
        outputs = _together(subject, rows, segments)
        try:
            worst = max(worst, _compare(y, outputs, suffix, mode, limit))
        except Broken:
            # the rows of this batch change at different s: where rows mix, that looks like time
            _compare(*_one_by_one(subject, x, rows, segments), suffix, mode, limit)
        if suffix:
            _alive_or_deaf(subject, x, other, y, outputs, segments, mode)
        elif subject.span is not None:
            _reach(y, outputs, subject.span, limit)
        if single:
            one_by_one = _one_by_one(subject, x, rows, segments)
            worst = max(worst, _compare(*one_by_one, suffix, mode + f" at batch {batch}", limit))
    return worst


def _changed(subject: Subject, x: Tensor, other: Tensor, suffix: bool) -> Tensor:
    """``x`` (B, T, …) with ``other`` from s on, or at s alone, for every s: (T, B, T, …)."""
    tokens = x.shape[1]
    _, mask = changed_positions([Change(s, suffix) for s in range(tokens)], tokens)
    return subject.swap(x, other, mask[:, None])


def _together(subject: Subject, rows: Tensor, segments: Tensor | None) -> Tensor:
    """Outputs (S, B, T, …) of S variants (S, B, T, …) of one input, in one batch."""
    repeated = None if segments is None else segments.repeat(len(rows), 1)
    return subject(rows.flatten(0, 1), repeated).unflatten(0, rows.shape[:2])


def _one_by_one(subject: Subject, x: Tensor, rows: Tensor, segments: Tensor | None) -> tuple[Tensor, Tensor]:
    """Outputs of ``x`` and of S variants, both (S, B, T, …), one call per variant."""
    outputs = torch.stack([subject(row, segments) for row in rows])
    return subject(x, segments).expand_as(outputs), outputs


def _compare(y: Tensor, outputs: Tensor, suffix: bool, mode: str, limit: tolerances.Tolerance) -> float:
    """Outputs before s, for every s (the first axis): the largest move, or Broken with the first pair."""
    tokens = y.shape[2]
    past = torch.ones(tokens, tokens, dtype=torch.bool).tril(-1)  # [s, t]: t < s
    moves = torch.where(past[:, None], (outputs - y).abs().flatten(3).amax(dim=3), 0.0).amax(dim=1)
    unit = max(scale_of(y), TINY)
    bound = limit.bound * unit
    worst = ratio(moves, y)
    if not worst * unit <= bound:
        s, t = first_position(moves, bound)
        raise Broken(
            f"changing {Change(s, suffix)} moves the earlier output {t}{mode}",
            size=moves[s, t].item() / unit,
            bound=limit.bound,
            unit="of max |y|",
            t=t,
            s=s,
        )
    return worst


def _alive_or_deaf(
    subject: Subject,
    x: Tensor,
    other: Tensor,
    y: Tensor,
    outputs: Tensor,
    segments: Tensor | None,
    mode: str,
) -> None:
    """Check that large changes move the output of a block that ignores small ones."""
    try:
        _alive(y, [outputs], mode)
    except Broken:
        if not x.is_floating_point():
            raise
        rows = [_changed(subject, x, loud * other, True) for loud in (LOUD, -LOUD)]
        _alive(y, [outputs, *(_together(subject, row, segments) for row in rows)], mode)


def _alive(y: Tensor, variants: list[Tensor], mode: str) -> None:
    """Replacing at least the last two tokens must show in them: a delay of one is legal."""
    tokens, dead = y.shape[2], f"a dead block (max |y| is {max(scale_of(y), TINY):.1g})"
    for s in range(tokens - 1):
        reaction = max(ratio(outputs[s, :, s:] - y[s, :, s:], y) for outputs in variants)
        if not reaction >= tolerances.LIVE.bound:
            raise Broken(
                f"outputs from {s} on do not react when all tokens from {s} on change{mode}: {dead}",
                size=reaction,
                bound=tolerances.LIVE.bound,
                unit="of max |y|, required at least",
                t=s,
                s=s,
            )


def _reach(y: Tensor, outputs: Tensor, window: int, limit: tolerances.Tolerance) -> None:
    """A declared window of w tokens: y[s + w - 1] feels x[s], y[s + w] does not."""
    tokens, unit = y.shape[2], max(scale_of(y), TINY)
    moves = (outputs - y).abs().flatten(3).amax(dim=(1, 3)) / unit  # [s, t]
    distance = torch.arange(tokens)[None, :] - torch.arange(tokens)[:, None]
    beyond = torch.where(distance >= window, moves, 0.0)
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
    edge = moves[distance == window - 1]
    if edge.numel() and not edge.max() > tolerances.REACH.bound:
        raise Broken(
            f"window {window} is narrower than declared: no output reacts to the token {window - 1} before "
            "it",
            size=edge.max().item(),
            bound=tolerances.REACH.bound,
            unit="of max |y|, required at least",
            t=window - 1,
            s=0,
        )


def _gradients(subject: Subject, x: Tensor, seed: int) -> float:
    """Largest |d y[t] / d x[>t]|, a share of the largest gradient; 0 for token ids, which have none."""
    if not x.is_floating_point():
        return 0.0
    tokens, limit = x.shape[1], tolerances.gradient(subject.module)
    x = x.clone().requires_grad_()
    y = subject(x)
    if not y.requires_grad:
        return 0.0
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    some = sorted({0, tokens // 3, tokens // 2, tokens - 2})
    positions = range(tokens) if tokens <= GRADIENTS_AT_ALL else some
    worst = 0.0
    for t in positions:
        output = (y[:, t] * weights[:, t]).sum()
        (g,) = torch.autograd.grad(output, x, retain_graph=True, materialize_grads=True)
        leak = ratio(g[:, t + 1 :], g)
        worst = max(worst, leak)
        if not leak <= limit.bound:
            _, offset = first_position(g[:, t + 1 :], limit.bound * scale_of(g))
            raise Broken(
                f"the gradient of output {t} with respect to the later token {t + 1 + offset} is not zero",
                size=leak,
                bound=limit.bound,
                unit="of the largest gradient",
                t=t,
                s=t + 1 + offset,
            )
    return worst


@torch.no_grad()
def prefix_consistency(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """Check block(x[:, :n]) = block(x)[:, :n], which exposes dependence on the length."""
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
            text = f"the first {n} tokens alone give a different output {t}"
            text += f" than the same tokens in a sequence of {tokens}"
            raise Broken(text, size=size, bound=limit, unit="of max |y|", t=t, s=n)
    return worst


def _prefixes(tokens: int) -> list[int]:
    if tokens <= GRADIENTS_AT_ALL:
        return list(range(1, tokens))
    if tokens > LONGEST:
        return sorted({n for n in (64, 65, 128, tokens // 2, tokens - 1) if n < tokens})
    usual = (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, tokens - 2, tokens - 1)
    return sorted({n for n in usual if 0 < n < tokens})
