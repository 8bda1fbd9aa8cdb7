"""``arch-lab bench faults``: page faults and speed of training steps, with freed buffers kept and given back.

Legend: B batch, T tokens, D width, V vocabulary.
Two processes train the same model: one as arch-lab trains (``arch_lab.memory``), one with the allocator as it is
and huge pages, arch-lab's setting where buffers are not kept. They take turns, a step each, so that a drifting
machine slows both. On one thread the clock is processor time.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from torch import Tensor

from arch_lab.bench.protocol import GateError, Row, Skipped
from arch_lab.judge.crossover import middle
from arch_lab.memory import HUGE_PAGES, VARIABLE, keep_memory, keeps_memory
from arch_lab.models import Shape, recipe
from arch_lab.study.workers import without_main

ARCHITECTURES, TOKENS = ("gemma3", "m2_gpt"), 4096
SHAPE, VOCABULARY = Shape(width=256, depth=4, ffn_width=1024), 1024
WARM_UP, REPEATS = 6, 5  # the heap grows for a few steps until every buffer finds its place


@dataclass(frozen=True, kw_only=True)
class FaultRow(Row):
    """A row with the median page faults of a step on both sides."""

    ours_faults: float
    peer_faults: float


@dataclass(frozen=True)
class Step:
    """What one training step took."""

    seconds: float
    faults: int
    loss: float


def faults() -> Iterator[FaultRow | Skipped]:
    """One row per architecture."""
    if find_spec("resource") is None or not keeps_memory():
        yield Skipped(
            name="page faults", reason="freed buffers are kept only with glibc, where nothing asks otherwise"
        )
        return
    for architecture in ARCHITECTURES:
        yield _row(architecture)


def _row(architecture: str) -> FaultRow:
    with ExitStack() as stack:
        ours, peer = (stack.enter_context(trainer(architecture, TOKENS, keep=keep)) for keep in (True, False))
        pairs = [(ours(), peer()) for _ in range(REPEATS)]
    if any(a.loss != b.loss for a, b in pairs):
        raise GateError(
            f"bench 'faults', {architecture}: losses depend on the allocator; no speed is reported"
        )
    ratio, low, high = middle([b.seconds / a.seconds for a, b in pairs])
    ours_faults, peer_faults = (
        statistics.median(step.faults for step in steps) for steps in zip(*pairs, strict=True)
    )
    return FaultRow(
        name=f"{architecture} training step, freed buffers kept",
        shape=f"B 1, T {TOKENS}, D {SHAPE.width}: {ours_faults:,.0f} page faults, {peer_faults:,.0f} of the peer",
        ours_ms=1e3 * statistics.median(a.seconds for a, _ in pairs),
        peer="freed buffers given back",
        peer_ms=1e3 * statistics.median(b.seconds for _, b in pairs),
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        ours_faults=ours_faults,
        peer_faults=peer_faults,
    )


@contextmanager
def trainer(architecture: str, tokens: int, *, keep: bool) -> Iterator[Callable[[], Step]]:
    """A process that takes one training step at each call."""
    spawn = multiprocessing.get_context("spawn")
    connection, far_end = spawn.Pipe()
    arguments = (far_end, architecture, tokens, torch.get_num_threads())
    process = spawn.Process(target=train_on_request, args=arguments, daemon=True)
    with _environment(keep), without_main():
        process.start()
    far_end.close()

    def step() -> Step:
        connection.send(True)
        return connection.recv()  # type: ignore[no-any-return]

    try:
        yield step
    finally:
        connection.close()
        process.join()


@contextmanager
def _environment(keep: bool) -> Iterator[None]:
    """Inside, a new process keeps freed buffers, or leaves the allocator as it is and uses huge pages."""
    before = dict(os.environ)
    os.environ |= {VARIABLE: "1" if keep else "0", HUGE_PAGES: "0" if keep else "1"}
    try:
        yield
    finally:
        for name in (VARIABLE, HUGE_PAGES):
            os.environ.pop(name)
        os.environ |= {name: before[name] for name in (VARIABLE, HUGE_PAGES) if name in before}


# --- in the process that trains -----------------------------------------------------------------------------


def train_on_request(connection: Connection, architecture: str, tokens: int, threads: int) -> None:
    """Take a step for each message, until the connection closes."""
    from resource import RUSAGE_SELF, getrusage

    keep_memory()
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    step = training_step(architecture, tokens)
    for _ in range(WARM_UP):
        step()
    try:
        while connection.recv():
            first, start = getrusage(RUSAGE_SELF).ru_minflt, clock()
            loss = step()
            seconds, last = clock() - start, getrusage(RUSAGE_SELF).ru_minflt
            connection.send(Step(seconds, last - first, float(loss)))
    except EOFError:
        pass


def training_step(architecture: str, tokens: int) -> Callable[[], Tensor]:
    """Forward, cross-entropy, backward and AdamW on one random row."""
    torch.manual_seed(0)
    model = recipe(architecture, {}).model(SHAPE, vocabulary=VOCABULARY, max_tokens=tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    row = torch.randint(1, VOCABULARY, (1, tokens + 1))

    def step() -> Tensor:
        loss = F.cross_entropy(model(row[:, :-1]).flatten(0, 1), row[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step
