"""Law 3: token by token = prefill in any chunking = the parallel forward.

Legend: B batch, T tokens, w window.
Chunks of w-1, w, w+1 and 2w+1 tokens wrap a cache in every way it can be wrapped: a ring that overwrites while it is
filled is right for chunks that fit and wrong for the first one that does not.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch

from arch_lab.laws import tolerances
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import Subject, first_position, ratio, scale_of
from blocks.contract import SequenceMixer
from blocks.errors import ConfigError

CHUNK = 4  # stands in for the window of a mixer without one


@torch.no_grad()
def decoding(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """The largest difference between decoding and the parallel forward, relative to max |y|. Raises: Broken."""
    mixer: Any = subject.module  # a sequence mixer, or a whole model
    x = subject.input(batch, tokens, seed)
    y = subject(x)
    worst, limit = 0.0, tolerances.decoding(mixer).bound
    for how, chunks in chunkings(tokens, subject.window or CHUNK, seed):
        # a state made for exactly T tokens, and one made for more; one that grows, and one that takes its memory at once
        makers = state_makers(mixer)
        state = makers[len(chunks) // 2 % len(makers)](batch, tokens if len(chunks) % 2 else subject.longest)
        start = 0
        for size in chunks:
            if how == "step by step":
                part, state = mixer.step(x[:, start], state)
                part = part.unsqueeze(1)
            else:
                part, state = mixer.prefill(x[:, start : start + size], state)
            expected = y[:, start : start + size]
            if part.shape != expected.shape:
                raise Broken(f"{how}: {tuple(part.shape)} comes back for {size} tokens, expected {tuple(expected.shape)}")
            deviation = ratio(part - expected, y)
            worst = max(worst, deviation)
            if not deviation <= limit:
                _, t = first_position(part - expected, limit * scale_of(y))
                raise Broken(
                    f"decoding {how} gives a different output {start + t} than the parallel forward",
                    size=deviation,
                    bound=limit,
                    unit="of max |y|",
                    t=start + t,
                    s=start,
                )
            start += size
    return worst


def state_makers(mixer: Any) -> list[Callable[[int, int], Any]]:
    """``init_state``, and ``reserve_state`` of a sequence mixer that has its own."""
    own = isinstance(mixer, SequenceMixer) and type(mixer).reserve_state is not SequenceMixer.reserve_state
    return [mixer.init_state, *([mixer.reserve_state] if own else [])]


def chunkings(tokens: int, window: int, seed: int) -> list[tuple[str, list[int]]]:
    """(description, sizes) of ways to cut ``tokens``: one by one, at once, around the window, one drawn at random."""
    found = [("step by step", [1] * tokens), ("in one prefill", [tokens])]
    for size in (window - 1, window, window + 1, 2 * window + 1):
        if 0 < size < tokens:
            found.append((f"in chunks of {size}", _cut(tokens, [size] * tokens)))
    if tokens > window + 1:
        # first fill the cache past its end, then go on by one: what a prompt and its continuation do
        found.append((f"in a prefill of {window + 1}, then one by one", _cut(tokens, [window + 1] + [1] * tokens)))
    if tokens > 2:
        draw = Random(seed)
        sizes = [draw.randint(1, max(2, tokens // 2)) for _ in range(tokens)]
        found.append(("in random chunks", _cut(tokens, sizes)))
    return found


def _cut(tokens: int, sizes: list[int]) -> list[int]:
    cut: list[int] = []
    for size in sizes:
        if sum(cut) >= tokens:
            break
        cut.append(min(size, tokens - sum(cut)))
    return cut


def refusal(subject: Subject) -> None:
    """A bidirectional mixer must refuse to decode. Raises: Broken when it hands out a state."""
    mixer = subject.module
    if not isinstance(mixer, SequenceMixer):
        return
    try:
        mixer.init_state(1, 1)
    except ConfigError:
        return
    raise Broken("the mixer is bidirectional, but init_state returns a state; raise self.refuse_decoding()")
