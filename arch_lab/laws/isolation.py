"""Law 4: documents packed in one row, padding, and other batch rows change nothing; a position-wise block mixes nothing.

Legend: B batch, T tokens, A and B documents, pads = positions whose segment is 0.
Resetting positions alone does not isolate, and pads become non-zero behind the first bias: both are tried with contents
far from zero. A guard goes with every probe: what was changed itself reacts.
"""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.memory import memory_isolation
from arch_lab.laws.pooling import pooling_isolation
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import Subject, first_position, ratio, scale_of, takes_segments, training
from blocks.contract import CrossMixer

PAD_CONTENT = 50.0  # finite and large: what a padding token's embedding may grow to


@torch.no_grad()
def isolation(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """The largest move of anything that should have stayed, relative to max |y|. Raises: Broken."""
    if subject.pools:
        return pooling_isolation(subject, batch, tokens, seed)
    if subject.mixes and not takes_segments(subject.module):
        raise Broken("forward takes no segments: write forward(self, x, segments=None) and keep documents apart, or raise ConfigError")
    worst = rows(subject, batch, tokens, seed)
    with training(subject):
        worst = max(worst, rows(subject, batch, tokens, seed, " in train mode"))
    if not subject.mixes:
        worst = max(worst, _positions(subject, batch, tokens, seed))
    if not subject.takes_segments:
        return worst
    worst = max(worst, _packed(subject, batch, tokens, seed), _padded(subject, batch, tokens, seed))
    if isinstance(subject.block, CrossMixer):
        worst = max(worst, memory_isolation(subject, subject.block, batch, tokens, seed))
    return worst if subject.reach is None else max(worst, _beyond(subject, subject.reach, batch, tokens, seed))


@torch.no_grad()
def rows(subject: Subject, batch: int, tokens: int, seed: int, mode: str = "") -> float:
    """Batch rows never meet: a row alone, its place in the batch, and the other rows' content do not matter."""
    x = subject.input(max(batch, 2), tokens, seed)
    y = subject(x)
    limit = tolerances.other_shape(subject.module).bound
    worst = _same(y[:1], subject(x[:1]), y, limit, "row 0 gives a different output {t} alone than in a batch" + mode)
    worst = max(worst, _same(y.flip(0), subject(x.flip(0)), y, limit, "the order of batch rows changes output {t}" + mode))
    changed = torch.cat([x[:1], subject.other(x, seed + 1)[1:]])
    after = subject(changed)
    exact = tolerances.same_length(subject.module).bound
    worst = max(worst, _same(y[:1], after[:1], y, exact, "changing another batch row moves output {t} of this one" + mode))
    if tokens > 1:
        _reacts(y[1:], after[1:], y, "a batch row")
    return worst


def _positions(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """A position-wise block: changing one position changes that one alone."""
    x = subject.input(batch, tokens, seed)
    other, y, worst = subject.other(x, seed + 1), subject(x), 0.0
    exact = tolerances.same_length(subject.module).bound
    for s in sorted({0, tokens // 2, tokens - 1}):
        here = torch.arange(tokens)[None] == s
        after = subject(subject.swap(x, other, here))
        keep = ~here[..., None]
        worst = max(
            worst, _same(y * keep, after * keep, y, exact, f"changing position {s} moves output {{t}} of a position-wise block", s=s)
        )
    if subject.kind == "head":
        worst = max(worst, _pooled(subject, x, y))
    return worst


def _pooled(subject: Subject, x: Tensor, y: Tensor) -> float:
    """A head answers a pooled vector (B, D) as it answers the same vector inside a sequence."""
    worst, limit = 0.0, tolerances.other_shape(subject.module).bound
    for t in sorted({0, x.shape[1] - 1}):
        text = f"the vector at position {t} gives a different output {{t}} as a pooled vector"
        worst = max(worst, _same(y[:, t : t + 1], subject(x[:, t]).unsqueeze(1), y, limit, text, s=t, shift=t))
    return worst


def documents(tokens: int, seed: int) -> list[tuple[int, int, int]]:
    """(first, last + 1, id) of each document of a row, pads (id 0) included. Ids come back: a new run is a new document.

    Never the same id on both sides of padding: models refuse that as a hole.
    """
    draw = Random(seed)
    found: list[tuple[int, int, int]] = []
    start = 0
    while start < tokens:
        size = min(tokens - start, draw.randint(1, max(1, tokens // 2)))
        identity = draw.choice([0, 1, 2, 3]) if found else 1
        if identity in _barred(found):
            identity = next(other for other in (1, 2, 3) if other not in _barred(found))
        found.append((start, start + size, identity))
        start += size
    return found


def _barred(plan: list[tuple[int, int, int]]) -> set[int]:
    """Ids the next document may not have: the last one's, and behind padding also that of the document before."""
    if not plan:
        return set()
    return {identity for _, _, identity in plan[-1 if plan[-1][2] else -2 :]}


def _packed(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    x = subject.input(batch, tokens, seed)
    plans = [documents(tokens, seed + i) for i in range(batch)]
    segments = torch.tensor([[identity for a, b, identity in plan for _ in range(b - a)] for plan in plans])
    y = subject(x, segments)
    if subject.silent_at_padding and y[segments == 0].any():
        raise Broken("outputs at padding are not zero", t=int((segments == 0).nonzero()[0, 1]))
    limit, exact = tolerances.other_shape(subject.module).bound, tolerances.same_length(subject.module).bound
    alone = "one document spelled out in segments gives a different output {t} than none"
    worst = _same(subject(x), subject(x, torch.ones_like(segments)), y, limit, alone)
    for i, plan in enumerate(plans):
        for a, b, identity in plan:
            if not identity:
                continue
            text = f"the document at {a}..{b - 1} gives a different output {{t}} packed than alone"
            worst = max(worst, _same(subject(x[i : i + 1, a:b]), y[i : i + 1, a:b], y, limit, text, shift=a))
        first = plan[0]  # A: the one whose state a successor could inherit
        inside = torch.zeros_like(segments, dtype=torch.bool)
        inside[i, first[0] : first[1]] = True
        after = subject(subject.swap(x, subject.other(x, seed + 1), inside), segments)
        text = f"changing the document at {first[0]}..{first[1] - 1} moves output {{t}} of another"
        # a model's outputs at pads carry their own token through the residual stream and are nobody's
        ours = (inside | (segments == 0))[..., None]
        worst = max(worst, _same(y.masked_fill(ours, 0), after.masked_fill(ours, 0), y, exact, text, s=first[1] - 1))
        if first[1] - first[0] > 1:
            _reacts(y[inside], after[inside], y, "the document")
    return worst


def _padded(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """Left and right padding of any content and amount: outputs of the real tokens stay, outputs at pads are zero."""
    longest, draw = subject.longest, Random(seed)
    room = longest - tokens
    if room < 1:
        return 0.0
    x = subject.input(batch, tokens, seed)
    y = subject(x)
    worst = 0.0
    for side in ("left", "right", "both"):
        left = 0 if side == "right" else draw.randint(1, min(room, 4) if side == "left" else max(1, min(room // 2, 4)))
        right = 0 if side == "left" else draw.randint(1, max(1, min(room - left, 4)))
        if left + right > room:
            continue
        pads = subject.input(batch, left + right, seed + 1)
        if not subject.reads_tokens:
            pads = PAD_CONTENT * pads
        row = torch.cat([pads[:, :left], x, pads[:, left:]], dim=1)
        segments = torch.zeros(row.shape[:2], dtype=torch.long)
        segments[:, left : left + tokens] = 1
        padded = subject(row, segments)
        where = {"left": f"{left} pads on the left", "right": f"{right} pads on the right"}.get(
            side, f"{left} pads before and {right} after"
        )
        text = f"{where} change output {{t}} of the real tokens"
        worst = max(worst, _same(y, padded[:, left : left + tokens], y, tolerances.other_shape(subject.module).bound, text))
        if subject.silent_at_padding and (padded[:, :left].any() or padded[:, left + tokens :].any()):
            raise Broken(f"with {where} the outputs at padding are not zero")
    nothing = subject(x, torch.zeros(batch, tokens, dtype=torch.long))
    if subject.silent_at_padding and not (nothing == 0).all():
        raise Broken("a row of padding alone does not give zeros")
    if not nothing.isfinite().all():
        raise Broken("a row of padding alone gives numbers that are not finite")
    return worst


def _beyond(subject: Subject, reach: tuple[int, int], batch: int, tokens: int, seed: int) -> float:
    """A declared radius of a bidirectional mixer: what is farther before or after a token than it says never meets it."""
    x, s = subject.input(batch, tokens, seed), tokens // 2
    changed = x.clone()
    changed[:, s] = subject.other(x, seed + 1)[:, s]
    distance = torch.arange(tokens) - s  # how far before the output the changed token stands
    far = (distance > reach[0]) | (-distance > reach[1])
    y, after = subject(x), subject(changed)
    text = f"radius {reach} is wider than declared: output {{t}} moves with token {s}"
    keep = far[None, :, None]
    return _same(y * keep, after * keep, y, tolerances.same_length(subject.module).bound, text, s=s)


def _same(expected: Tensor, found: Tensor, y: Tensor, limit: float, text: str, *, s: int | None = None, shift: int = 0) -> float:
    difference = found - expected
    size = ratio(difference, y)
    if not size <= limit:
        _, t = first_position(difference, limit * scale_of(y))
        raise Broken(text.format(t=t + shift), size=size, bound=limit, unit="of max |y|", t=t + shift, s=s)
    return size


def _reacts(before: Tensor, after: Tensor, y: Tensor, what: str) -> None:
    reaction = ratio(after - before, y)
    if not reaction >= tolerances.LIVE.bound:
        raise Broken(
            f"changing {what} does not change its own outputs: the check would show nothing",
            size=reaction,
            bound=tolerances.LIVE.bound,
            unit="of max |y|, required at least",
        )
