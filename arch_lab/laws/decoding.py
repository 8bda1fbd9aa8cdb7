"""Law 3: token by token = prefill in any chunking = the parallel forward.

Legend: B batch, T tokens, w window.
Chunks of w-1, w, w+1 and 2w+1 tokens wrap a cache in every way it can be wrapped: a ring that overwrites
while it is filled is right for chunks that fit and wrong for the first one that does not.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

from arch_lab.laws import tolerances
from arch_lab.laws.moves import first_position, ratio, scale_of
from arch_lab.laws.result import Broken
from arch_lab.laws.subject import Subject
from blocks.contract import SequenceMixer
from blocks.errors import ConfigError

STEPS = "step by step"
CHUNK = 4  # stands in for the window of a mixer without one


@torch.no_grad()
def decoding(subject: Subject, batch: int, tokens: int, seed: int) -> float:
    """The largest difference of decoding from the parallel forward, a share of max |y|. Raises: Broken."""
    mixer: Any = subject.module  # a sequence mixer, or a whole model
    x = subject.input(batch, tokens, seed)
    y, worst = subject(x), 0.0
    for method, chunks in chunkings(tokens, subject.window or CHUNK, seed):
        # a state made for exactly T tokens, and one for more; one that grows, and one that reserves its
        # memory
        makers = state_makers(mixer)
        make = makers[len(chunks) // 2 % len(makers)]
        state = make(batch, tokens if len(chunks) % 2 else subject.longest)
        worst = max(worst, _decoded(mixer, x, y, state, chunks, method))
    return worst


def _decoded(mixer: Any, x: Tensor, y: Tensor, state: Any, chunks: list[int], method: str) -> float:
    """The largest difference from ``y`` when ``x`` is decoded in ``chunks``. Raises: Broken."""
    start, worst, limit = 0, 0.0, tolerances.decoding(mixer).bound
    for size in chunks:
        if method == STEPS:
            output, state = mixer.step(x[:, start], state)
            output = output.unsqueeze(1)
        else:
            output, state = mixer.prefill(x[:, start : start + size], state)
        expected = y[:, start : start + size]
        if output.shape != expected.shape:
            shapes = f"{tuple(output.shape)} comes back for {size} tokens, expected {tuple(expected.shape)}"
            raise Broken(f"{method}: {shapes}")
        deviation = ratio(output - expected, y)
        worst = max(worst, deviation)
        if not deviation <= limit:
            t = start + first_position(output - expected, limit * scale_of(y))[1]
            text = f"decoding {method} gives a different output {t} than the parallel forward"
            raise Broken(text, size=deviation, bound=limit, unit="of max |y|", t=t, s=start)
        start += size
    return worst


def state_makers(mixer: Any) -> list[Callable[[int, int], Any]]:
    """``init_state``, and ``reserve_state`` where a sequence mixer defines it."""
    reserves = (
        isinstance(mixer, SequenceMixer) and type(mixer).reserve_state is not SequenceMixer.reserve_state
    )
    return [mixer.init_state, *([mixer.reserve_state] if reserves else [])]


def chunkings(tokens: int, window: int, seed: int) -> list[tuple[str, list[int]]]:
    """(method, sizes) of ways to cut ``tokens``: one by one, at once, around the window, one at random."""
    methods = [(STEPS, [1] * tokens), ("in one prefill", [tokens])]
    for size in (window - 1, window, window + 1, 2 * window + 1):
        if 0 < size < tokens:
            methods.append((f"in chunks of {size}", _cut(tokens, [size] * tokens)))
    if tokens > window + 1:
        # first fill the cache past its end, then go on by one: what a prompt and its continuation do
        sizes = _cut(tokens, [window + 1] + [1] * tokens)
        methods.append((f"in a prefill of {window + 1}, then one by one", sizes))
    if tokens > 2:
        draw = Random(seed)
        sizes = [draw.randint(1, max(2, tokens // 2)) for _ in range(tokens)]
        methods.append(("in random chunks", _cut(tokens, sizes)))
    return methods


def _cut(tokens: int, sizes: list[int]) -> list[int]:
    chunks: list[int] = []
    for size in sizes:
        if sum(chunks) >= tokens:
            break
        chunks.append(min(size, tokens - sum(chunks)))
    return chunks


def refusal(subject: Subject) -> None:
    """A bidirectional mixer must refuse to decode. Raises: Broken when it hands out a state."""
    mixer = subject.module
    if not isinstance(mixer, SequenceMixer):
        return
    try:
        mixer.init_state(1, 1)
    except ConfigError:
        return
    text = "the mixer is bidirectional, but init_state returns a state"
    raise Broken(f"{text}; raise self.refuse_decoding()")
