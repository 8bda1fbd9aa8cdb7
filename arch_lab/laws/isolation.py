"""Law 4: packed documents, padding and other batch rows change nothing; a position-wise block mixes nothing.

Legend: B batch, T tokens, A and B documents, pads = positions whose segment is 0.
Resetting positions alone does not isolate, and pads become non-zero behind the first bias: both are tried
with contents far from zero. A guard goes with every probe: what was changed itself reacts.
"""

from __future__ import annotations

from random import Random

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.memory import memory_isolation
from arch_lab.laws.moves import PAD_CONTENT, require_reaction, require_same
from arch_lab.laws.pooling import pooling_isolation
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import Subject, takes_segments, training
from blocks.contract import CrossMixer

Document = tuple[int, int, int]  # first position, last position + 1, id
BLIND = "changing {} does not change its own outputs: the check would show nothing"


@torch.no_grad()
def isolation(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """The largest move of anything that should have stayed, relative to max |y|. Raises: Broken."""
    if subject.pools:
        return pooling_isolation(subject, batch, tokens, seed)
    if subject.mixes and not takes_segments(subject.module):
        advice = "write forward(self, x, segments=None) and keep documents apart, or raise ConfigError"
        raise Broken(f"forward takes no segments: {advice}")
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
    if subject.reach is not None:
        worst = max(worst, _beyond(subject, subject.reach, batch, tokens, seed))
    return worst


@torch.no_grad()
def rows(subject: Subject, batch: int, tokens: int, seed: int, mode: str = "") -> float:
    """Check that neither the index of a row nor the other rows matter."""
    x = subject.input(max(batch, 2), tokens, seed)
    y = subject(x)
    limit, exact = tolerances.other_shape(subject.module).bound, tolerances.same_length(subject.module).bound
    text = "row 0 gives a different output {t} alone than in a batch" + mode
    worst = require_same(y[:1], subject(x[:1]), y, limit, text)
    text = "the order of batch rows changes output {t}" + mode
    worst = max(worst, require_same(y.flip(0), subject(x.flip(0)), y, limit, text))
    changed = subject(torch.cat([x[:1], subject.other(x, seed + 1)[1:]]))
    text = "changing another batch row moves output {t} of this one" + mode
    worst = max(worst, require_same(y[:1], changed[:1], y, exact, text))
    if tokens > 1:
        require_reaction(changed[1:], y[1:], y, BLIND.format("a batch row"))
    return worst


def _positions(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """Check that changing one position of a position-wise block changes that one only."""
    x = subject.input(batch, tokens, seed)
    other, y, worst = subject.other(x, seed + 1), subject(x), 0.0
    exact = tolerances.same_length(subject.module).bound
    for s in sorted({0, tokens // 2, tokens - 1}):
        mask = torch.arange(tokens)[None] == s
        changed, keep = subject(subject.swap(x, other, mask)), ~mask[..., None]
        text = f"changing position {s} moves output {{t}} of a position-wise block"
        worst = max(worst, require_same(y * keep, changed * keep, y, exact, text, s=s))
    if subject.kind == "head":
        worst = max(worst, _pooled(subject, x, y))
    return worst


def _pooled(subject: Subject, x: Tensor, y: Tensor) -> float:
    """A head answers a pooled vector (B, D) as it answers the same vector inside a sequence."""
    worst, limit = 0.0, tolerances.other_shape(subject.module).bound
    for t in sorted({0, x.shape[1] - 1}):
        text = f"the vector at position {t} gives a different output {{t}} as a pooled vector"
        pooled = subject(x[:, t]).unsqueeze(1)
        worst = max(worst, require_same(y[:, t : t + 1], pooled, y, limit, text, s=t, shift=t))
    return worst


def documents(tokens: int, seed: int) -> list[Document]:
    """Documents that fill a row, pads (id 0) included. Ids come back: a new run is a new document.

    Never the same id on both sides of padding: models refuse that as a hole.
    """
    draw = Random(seed)
    plan: list[Document] = []
    start = 0
    while start < tokens:
        size = min(tokens - start, draw.randint(1, max(1, tokens // 2)))
        identity = draw.choice([0, 1, 2, 3]) if plan else 1
        if identity in _barred(plan):
            identity = next(other for other in (1, 2, 3) if other not in _barred(plan))
        plan.append((start, start + size, identity))
        start += size
    return plan


def _barred(plan: list[Document]) -> set[int]:
    """Ids the next document may not have: the last one's, and behind padding also the one before it."""
    if not plan:
        return set()
    return {identity for _, _, identity in plan[-1 if plan[-1][2] else -2 :]}


def _segments(plans: list[list[Document]], tokens: int) -> Tensor:
    segments = torch.zeros(len(plans), tokens, dtype=torch.long)
    for row, plan in zip(segments, plans, strict=True):
        for first, end, identity in plan:
            row[first:end] = identity
    return segments


def _packed(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """Check that packed documents give their unpacked outputs and do not interact."""
    x = subject.input(batch, tokens, seed)
    plans = [documents(tokens, seed + i) for i in range(batch)]
    segments = _segments(plans, tokens)
    y = subject(x, segments)
    if subject.silent_at_padding and y[segments == 0].any():
        raise Broken("outputs at padding are not zero", t=int((segments == 0).nonzero()[0, 1]))
    limit = tolerances.other_shape(subject.module).bound
    text = "one document spelled out in segments gives a different output {t} than none"
    worst = require_same(subject(x), subject(x, torch.ones_like(segments)), y, limit, text)
    for i, plan in enumerate(plans):
        for first, end, _ in (document for document in plan if document[2]):
            text = f"the document at {first}..{end - 1} gives a different output {{t}} packed than alone"
            unpacked, packed = subject(x[i : i + 1, first:end]), y[i : i + 1, first:end]
            worst = max(worst, require_same(unpacked, packed, y, limit, text, shift=first))
        worst = max(worst, _first_document(subject, x, y, segments, i, plan[0], seed))
    return worst


def _first_document(
    subject: Subject,
    x: Tensor,
    y: Tensor,
    segments: Tensor,
    row: int,
    document: Document,
    seed: int,
) -> float:
    """Check that changing a row's first document changes no other document."""
    first, end, _ = document
    mask = torch.zeros_like(segments, dtype=torch.bool)
    mask[row, first:end] = True
    changed = subject(subject.swap(x, subject.other(x, seed + 1), mask), segments)
    # a model's outputs at pads carry their own token through the residual stream and are nobody's
    ignored = (mask | (segments == 0))[..., None]
    text = f"changing the document at {first}..{end - 1} moves output {{t}} of another"
    exact = tolerances.same_length(subject.module).bound
    size = require_same(y.masked_fill(ignored, 0), changed.masked_fill(ignored, 0), y, exact, text, s=end - 1)
    if end - first > 1:
        require_reaction(changed[mask], y[mask], y, BLIND.format("the document"))
    return size


def _padded(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """Padding on either side, of any content: outputs of the real tokens stay, outputs at pads are zero."""
    room, draw = subject.longest - tokens, Random(seed)
    if room < 1:
        return 0.0
    x = subject.input(batch, tokens, seed)
    y, worst = subject(x), 0.0
    for side in ("left", "right", "both"):
        left, right = _pad_sizes(side, room, draw)
        if left + right <= room:
            worst = max(worst, _with_pads(subject, x, y, left, right, seed))
    nothing = subject(x, torch.zeros(batch, tokens, dtype=torch.long))
    if subject.silent_at_padding and not (nothing == 0).all():
        raise Broken("a row of padding alone does not give zeros")
    if not nothing.isfinite().all():
        raise Broken("a row of padding alone gives numbers that are not finite")
    return worst


def _pad_sizes(side: str, room: int, draw: Random) -> tuple[int, int]:
    left = right = 0
    if side == "left":
        left = draw.randint(1, min(room, 4))
    elif side == "both":
        left = draw.randint(1, max(1, min(room // 2, 4)))
    if side != "left":
        right = draw.randint(1, max(1, min(room - left, 4)))
    return left, right


def _with_pads(subject: Subject, x: Tensor, y: Tensor, left: int, right: int, seed: int) -> float:
    batch, tokens = x.shape[:2]
    pads = subject.input(batch, left + right, seed + 1)
    if not subject.reads_tokens:
        pads = PAD_CONTENT * pads
    row = torch.cat([pads[:, :left], x, pads[:, left:]], dim=1)
    segments = torch.zeros(row.shape[:2], dtype=torch.long)
    segments[:, left : left + tokens] = 1
    padded = subject(row, segments)
    if left and right:
        padding = f"{left} pads before and {right} after"
    else:
        padding = f"{left} pads on the left" if left else f"{right} pads on the right"
    text = f"{padding} change output {{t}} of the real tokens"
    limit = tolerances.other_shape(subject.module).bound
    size = require_same(y, padded[:, left : left + tokens], y, limit, text)
    if subject.silent_at_padding and (padded[:, :left].any() or padded[:, left + tokens :].any()):
        raise Broken(f"with {padding} the outputs at padding are not zero")
    return size


def _beyond(subject: Subject, reach: tuple[int, int], batch: int, tokens: int, seed: int) -> float:
    """Check that tokens beyond the declared radius have no effect."""
    x, s = subject.input(batch, tokens, seed), tokens // 2
    mask = torch.arange(tokens)[None] == s
    y, changed = subject(x), subject(subject.swap(x, subject.other(x, seed + 1), mask))
    distance = torch.arange(tokens) - s  # how far before the output the changed token stands
    keep = ((distance > reach[0]) | (-distance > reach[1]))[None, :, None]
    text = f"radius {reach} is wider than declared: output {{t}} moves with token {s}"
    return require_same(y * keep, changed * keep, y, tolerances.same_length(subject.module).bound, text, s=s)
