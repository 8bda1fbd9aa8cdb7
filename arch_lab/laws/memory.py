"""Isolation between a sequence and the memory it reads: rows, padding and packed pairs.

Legend: B batch, T tokens, S memory tokens, M memory width.
Part of law 4 for every cross mixer. Pads of a memory are far from zero, as what an encoder leaves there may
be.
"""

from __future__ import annotations

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.moves import PAD_CONTENT, require_reaction, require_same
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import Subject
from blocks.contract import CrossMixer


@torch.no_grad()
def memory_isolation(subject: Subject, mixer: CrossMixer, batch: int, tokens: int, seed: int) -> float:
    """The largest move of an output that should have stayed, relative to max |y|. Raises: Broken."""
    size = 1 + (tokens + seed) % 9
    x = subject.input(batch, tokens, seed)
    memory, other = (_memory(subject, mixer, batch, size, n) for n in (seed, seed + 1))
    y = mixer(x, memory)
    require_reaction(mixer(x, other), y, y, "changing the memory does not change the outputs")
    text = "a row of x and its memory give a different output alone than in a batch"
    worst = _same(mixer(x[:1], memory[:1]), y[:1], y, text)
    ones = torch.ones(batch, size, dtype=torch.long)
    worst = max(worst, _same(mixer(x, memory, None, ones), y, y, "ids of one document change an output"))
    worst = max(worst, _padding(mixer, x, memory, y), _pairs(mixer, x, memory, other, y))
    return max(worst, _empty(mixer, x, memory, other, y))


def _same(output: Tensor, expected: Tensor, y: Tensor, text: str) -> float:
    return require_same(expected, output, y, tolerances.OTHER_SHAPE.bound, text)


def _padding(mixer: CrossMixer, x: Tensor, memory: Tensor, y: Tensor) -> float:
    """Pads around a memory change nothing: with ids for x, without, and in decoding."""
    worst, ones = 0.0, torch.ones(x.shape[:2], dtype=torch.long)
    for left, right in ((2, 0), (0, 3), (1, 2)):
        padded, ids = _padded(memory, left, right)
        text = f"{left} pads before the memory and {right} after it change an output"
        worst = max(worst, _same(mixer(x, padded, None, ids), y, y, text))
        worst = max(worst, _same(mixer(x, padded, ones, ids), y, y, text + " when x has ids too"))
        worst = max(worst, _same(_decoded(mixer, x, padded, ids), y, y, text + " in decoding"))
    return worst


def _empty(mixer: CrossMixer, x: Tensor, memory: Tensor, other: Tensor, y: Tensor) -> float:
    """Check that an all-padding memory gives finite outputs and is not read."""
    ids = torch.zeros(memory.shape[:2], dtype=torch.long)
    nothing = mixer(x, memory, None, ids)
    if not nothing.isfinite().all():
        raise Broken("a memory of padding alone gives numbers that are not finite")
    return _same(mixer(x, other, None, ids), nothing, y, "a memory of padding alone is read")


def _pairs(mixer: CrossMixer, x: Tensor, memory: Tensor, other: Tensor, y: Tensor) -> float:
    """Check that two padded pairs in one row give their unpacked outputs."""
    batch, tokens, size = x.shape[0], x.shape[1], memory.shape[1]
    if tokens < 2:
        return 0.0
    a = tokens // 2
    ids = torch.tensor([[4] * a + [9] * (tokens - a)] * batch)
    both = torch.cat([other, torch.full_like(memory[:, :1], PAD_CONTENT), memory], dim=1)
    both_ids = torch.tensor([[9] * size + [0] + [4] * size] * batch)
    separate = torch.cat([mixer(x[:, :a], memory), mixer(x[:, a:], other)], dim=1)
    packed = mixer(x, both, ids, both_ids)
    return _same(packed, separate, y, "a packed pair gives a different output than alone")


def _decoded(mixer: CrossMixer, x: Tensor, memory: Tensor, ids: Tensor) -> Tensor:
    state, outputs = mixer.init_state(memory, x.shape[1], ids), []
    for t in range(x.shape[1]):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1)


def _memory(subject: Subject, mixer: CrossMixer, batch: int, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 17)
    memory = torch.randn((batch, size, mixer.memory_width), generator=generator, dtype=torch.float64)
    return memory.to(subject.dtype)


def _padded(memory: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
    pad = PAD_CONTENT * torch.ones_like(memory[:, :1])
    row = torch.cat([pad.expand(-1, left, -1), memory, pad.expand(-1, right, -1)], dim=1)
    ids = torch.zeros(row.shape[:2], dtype=torch.long)
    ids[:, left : left + memory.shape[1]] = 1
    return row, ids
