"""Where the trials of a study run: one after the other in this process, or several at a time in worker processes.

An executor gets trials and gives results back in any order. The numbers do not depend on it: each trial runs with the same
number of torch threads, and is a function of its specification alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from arch_lab.memory import available_memory, keep_memory
from arch_lab.stored import Json
from arch_lab.study.open_study import OpenStudy
from arch_lab.study.plan import Plan
from arch_lab.study.trial import Observer, Trial
from arch_lab.study.workers import GRACE, Worker, wait_for_messages
from blocks.errors import ConfigError, did_you_mean, shown

NAMES = ("auto", "inline", "processes")
ATTEMPTS = 3  # of a trial whose worker dies, before the study ends
PROCESS_BYTES = 700e6  # of a worker beside its trial: torch, Lightning and the data's index
UNKNOWN_BYTES = 500e6  # of a trial whose size is not estimated


class Context(Protocol):
    """What every trial of a study needs. It can be pickled; ``open`` loads data and code again in another process."""

    def open(self) -> None:
        """Called once in each process, before its first trial. Raises: UserError."""

    def run(self, trial: Trial, observer: Observer) -> Json:
        """Run one trial and store its result. ``observer`` gets ``step`` and ``note``. Raises: UserError, KeyboardInterrupt."""


class Executor(Protocol):
    """``run`` yields (index of the trial, result) in the order they end; ``close`` ends what is still running."""

    name: str
    workers: int

    def run(
        self, trials: Sequence[Trial], context: Context, observer: Observer
    ) -> Iterator[tuple[int, Json]]: ...

    def close(self) -> None: ...


class Inline:
    """Trials one after the other in this process."""

    name, workers = "inline", 1

    def run(
        self, trials: Sequence[Trial], context: Context, observer: Observer
    ) -> Iterator[tuple[int, Json]]:
        keep_memory()
        for index, trial in enumerate(trials):
            observer("run", {"index": index})
            yield index, context.run(trial, observer)

    def close(self) -> None:
        """Nothing runs between two trials."""


class Processes:
    """Worker processes that each run one trial at a time and live as long as the study trains.

    A worker that dies costs its trial the steps since its last checkpoint: another worker runs it again. Ctrl-C and
    SIGTERM are passed on as SIGTERM, so that every running trial saves a checkpoint.
    """

    name = "processes"

    def __init__(self, workers: int, threads: int) -> None:
        self.workers, self.threads = workers, threads
        self._alive: list[Worker] = []

    def run(
        self, trials: Sequence[Trial], context: Context, observer: Observer
    ) -> Iterator[tuple[int, Json]]:
        waiting, attempts = list(range(len(trials))), [0] * len(trials)
        try:
            while waiting or any(worker.index is not None for worker in self._alive):
                self._assign(waiting, trials, context, observer)
                for worker, message in wait_for_messages(self._alive):
                    if message is None:
                        self._bury(worker, trials, attempts, waiting, observer)
                    elif message.kind == "result":
                        assert worker.index is not None
                        index, worker.index = worker.index, None
                        yield index, message.content
                    elif message.kind == "error":
                        raise message.content
                    else:
                        observer(message.kind, {**message.content, "index": worker.index})
        except BaseException:
            self.close()
            raise

    def _assign(
        self, waiting: list[int], trials: Sequence[Trial], context: Context, observer: Observer
    ) -> None:
        """Give every free worker a trial, and start workers while there are fewer than allowed."""
        while waiting:
            free = next((worker for worker in self._alive if worker.index is None), None)
            if free is None and len(self._alive) >= self.workers:
                return
            if free is None:
                free = Worker(context, self.threads)
                self._alive.append(free)
            index = waiting.pop(0)
            free.send(index, trials[index])

    def _bury(
        self,
        worker: Worker,
        trials: Sequence[Trial],
        attempts: list[int],
        waiting: list[int],
        observer: Observer,
    ) -> None:
        """Put the trial of a dead worker back. Raises: ConfigError when it has lost too many workers."""
        self._alive.remove(worker)
        worker.end(0.0)
        if worker.index is None:
            return
        label = trials[worker.index].label
        attempts[worker.index] += 1
        if attempts[worker.index] >= ATTEMPTS:
            raise ConfigError(
                f"{label}: its worker process died {ATTEMPTS} times, the last time by {worker.cause()}; "
                "if the machine ran out of memory, use fewer workers (--workers N)"
            )
        observer(
            "note", {"text": f"the worker process of {label} died ({worker.cause()}): the trial runs again"}
        )
        waiting.insert(0, worker.index)

    def close(self) -> None:
        """End all workers: each saves a checkpoint of its trial, if it does so within seconds."""
        for worker in self._alive:
            worker.terminate()
        deadline = time.monotonic() + GRACE
        for worker in self._alive:
            worker.end(max(0.0, deadline - time.monotonic()))
        self._alive.clear()


def make_executor(
    name: str | None, *, workers: int | None, threads: int, memory_bytes: float, trials: int
) -> Executor:
    """The executor of a study. ``name`` None: inline; ``auto``: processes on a processor with more than one core, else inline.

    ``memory_bytes``: what one trial is expected to need; as many workers as cores and memory allow, unless ``workers`` is given.
    Raises: ConfigError for a name that does not exist, or for ``workers`` without worker processes.
    """
    name = name or "inline"
    if name not in NAMES:
        raise ConfigError(
            f"unknown executor {shown(name)}; valid: {', '.join(NAMES)}{did_you_mean(name, NAMES)}"
        )
    if name == "auto":
        name = (
            "processes" if (workers or available_cores()) > 1 and not torch.cuda.is_available() else "inline"
        )
    if name == "inline":
        if workers not in (None, 1):
            raise ConfigError(
                "--workers: the executor inline runs one trial at a time; use --executor processes"
            )
        return Inline()
    if workers is None:
        memory = available_memory()
        by_memory = trials if memory is None else int(0.8 * memory / (memory_bytes + PROCESS_BYTES))
        workers = min(available_cores() // threads, by_memory)
    workers = max(1, min(workers, trials))
    return Processes(workers, threads)


def executor_for(plan: Plan, opened: OpenStudy, name: str | None, workers: int | None) -> Executor:
    """The executor for the trials of a plan, with the threads of now. Raises: ConfigError."""
    if not opened.in_processes:
        if name == "processes" or workers not in (None, 1):
            raise ConfigError(
                f"--executor processes: study {plan.study!r} runs its trials one after the other; leave it out"
            )
        return Inline()
    estimates = [arm.estimate.memory_bytes for arm in plan.models if arm.estimate is not None]
    return make_executor(
        name,
        workers=workers,
        threads=torch.get_num_threads(),
        memory_bytes=max(estimates, default=UNKNOWN_BYTES),
        trials=plan.trials,
    )


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def spare_cores(executor: Executor) -> Iterator[None]:
    """Inside, this process uses all cores: workers have not begun. As before where the executor runs trials here.

    OMP_NUM_THREADS stays the limit.
    """
    previous, limit = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS", "")
    if executor.name == "processes":
        torch.set_num_threads(
            min(available_cores(), int(limit) if limit.isdecimal() and int(limit) else available_cores())
        )
    try:
        yield
    finally:
        torch.set_num_threads(previous)
