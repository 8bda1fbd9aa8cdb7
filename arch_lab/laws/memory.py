"""Isolation between a sequence and the memory it reads: rows, padding and packed pairs.

Legend: B batch, T tokens, S memory tokens, M memory width.
Part of law 4 for every cross mixer. The pads of a memory are far from zero, as what an encoder leaves there may be.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import Subject, first_position, ratio, scale_of
from blocks.contract import CrossMixer

PAD_CONTENT = 50.0  # as in arch_lab.laws.isolation


@torch.no_grad()
def memory_isolation(subject: Subject, mixer: CrossMixer, batch: int, tokens: int, seed: int) -> float:
    """The largest move of an output that should have stayed, relative to max |y|. Raises: Broken."""
    read = 1 + (tokens + seed) % 9
    x, memory = subject.input(batch, tokens, seed), _memory(subject, mixer, batch, read, seed)
    y = mixer(x, memory)
    limit = tolerances.OTHER_SHAPE.bound

    def same(found: Tensor, expected: Tensor, text: str) -> float:
        difference = found - expected
        size = ratio(difference, y)
        if not size <= limit:
            _, t = first_position(difference, limit * scale_of(y))
            raise Broken(text, size=size, bound=limit, unit="of max |y|", t=t)
        return size

    other = _memory(subject, mixer, batch, read, seed + 1)
    reaction = ratio(mixer(x, other) - y, y)
    if not reaction >= tolerances.LIVE.bound:
        raise Broken(
            "changing the memory does not change the outputs",
            size=reaction,
            bound=tolerances.LIVE.bound,
            unit="of max |y|, required at least",
        )
    worst = same(mixer(x[:1], memory[:1]), y[:1], "a row of x and its memory give a different output alone than in a batch")
    worst = max(worst, same(mixer(x, memory, None, torch.ones(batch, read, dtype=torch.long)), y, "ids of one document change an output"))
    for left, right in ((2, 0), (0, 3), (1, 2)):
        padded, ids = _padded(memory, left, right)
        text = f"{left} pads before the memory and {right} after it change an output"
        worst = max(worst, same(mixer(x, padded, None, ids), y, text))
        ones = torch.ones(batch, tokens, dtype=torch.long)
        worst = max(worst, same(mixer(x, padded, ones, ids), y, text + " when x has ids too"))
        worst = max(worst, same(_decoded(mixer, x, padded, ids), y, text + " in decoding"))
    worst = max(worst, _pairs(mixer, x, memory, other, same))
    nothing = mixer(x, memory, None, torch.zeros(batch, read, dtype=torch.long))
    if not nothing.isfinite().all():
        raise Broken("a memory of padding alone gives numbers that are not finite")
    return max(worst, same(mixer(x, other, None, torch.zeros(batch, read, dtype=torch.long)), nothing, "a memory of padding alone is read"))


def _pairs(mixer: CrossMixer, x: Tensor, memory: Tensor, other: Tensor, same: Callable[[Tensor, Tensor, str], float]) -> float:
    """Two pairs in one row, with padding between: each gives what it gives alone."""
    batch, tokens, read = x.shape[0], x.shape[1], memory.shape[1]
    if tokens < 2:
        return 0.0
    a = tokens // 2
    ids = torch.tensor([[4] * a + [9] * (tokens - a)] * batch)
    both = torch.cat([other, torch.full_like(memory[:, :1], PAD_CONTENT), memory], dim=1)
    both_ids = torch.tensor([[9] * read + [0] + [4] * read] * batch)
    alone = torch.cat([mixer(x[:, :a], memory), mixer(x[:, a:], other)], dim=1)
    return same(mixer(x, both, ids, both_ids), alone, "a packed pair gives a different output than alone")


def _decoded(mixer: CrossMixer, x: Tensor, memory: Tensor, ids: Tensor) -> Tensor:
    state, parts = mixer.init_state(memory, x.shape[1], ids), []
    for t in range(x.shape[1]):
        y, state = mixer.step(x[:, t], state)
        parts.append(y)
    return torch.stack(parts, dim=1)


def _memory(subject: Subject, mixer: CrossMixer, batch: int, read: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 17)
    return torch.randn((batch, read, mixer.memory_width), generator=generator, dtype=torch.float64).to(subject.dtype)


def _padded(memory: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
    pad = PAD_CONTENT * torch.ones_like(memory[:, :1])
    row = torch.cat([pad.expand(-1, left, -1), memory, pad.expand(-1, right, -1)], dim=1)
    ids = torch.zeros(row.shape[:2], dtype=torch.long)
    ids[:, left : left + memory.shape[1]] = 1
    return row, ids
