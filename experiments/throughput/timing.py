"""One group of cells, timed: all arms in turn, round by round.

Drift of the machine then cancels in their ratios. What an arm cannot do on this machine becomes a record
with the reason, and the others go on: too little memory (met, or foreseen), a compiler that fails, or a call
so slow that LEAST_REPEATS of them do not fit the time of a cell (foreseen, or met on the first call).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from arch_lab.judge.crossover import Series, middle
from arch_lab.judge.records import FINISHED, Record
from arch_lab.study.estimate import measure_gemm_rate
from arch_lab.study.plan import PlannedArm
from arch_lab.units import duration
from blocks.errors import UserError
from experiments.throughput.config import LEAST_REPEATS, Group
from experiments.throughput.contenders import Contender, Settings, contender
from experiments.throughput.foresight import MARGIN, foreseen_peak, foreseen_seconds, free_bytes
from experiments.throughput.work import canonical_flops, executed_flops

NO_MEMORY, TIME_OUT, FAILED = "out of memory", "time-out", "failed"
SCORES = ("tokens_per_second", "ms")  # fields of a Timing that are scores of its Record
Build = Callable[[PlannedArm, Group, Settings], Contender]


@dataclass(frozen=True, kw_only=True)
class Timing(Group):
    """Speed and memory of one arm in a group.

    ``status``: finished, or why there are no times, with ``reason`` in words. ``seconds``: of a call in each
    round; ``ms``, ``ms_low``, ``ms_high``: their median and quartiles. ``call_seconds``: of the warm-up, or
    foreseen. ``mfu`` and ``hfu``: rate of canonical and of executed FLOPs / ``gemm_rate``. Bytes: see
    Contender.
    """

    arm: str
    status: str = FINISHED
    reason: str = ""
    flops: float | None = None
    executed_flops: float | None = None
    gemm_rate: float
    seconds: tuple[float, ...] = ()
    ms: float | None = None
    ms_low: float | None = None
    ms_high: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    hfu: float | None = None
    parameters: int | None = None
    state_bytes: int | None = None
    settled_bytes: int | None = None
    peak_bytes: int | None = None
    tokens_per_call: int | None = None
    compile_seconds: float | None = None
    call_seconds: float | None = None
    setup_seconds: float | None = None

    @property
    def is_measured(self) -> bool:
        return self.status == FINISHED

    def to_record(self) -> Record:
        """The record of the arm's trial; all that a Record has no field for is in its facts."""
        facts = self.to_json()
        scores = {key: facts.pop(key) for key in SCORES}
        return Record(
            task=self.slug,
            arm=facts.pop("arm"),
            status=facts.pop("status"),
            reason=facts.pop("reason"),
            scores=scores if self.is_measured else {},
            peak_memory_bytes=facts.pop("peak_bytes"),
            facts=facts,
        )

    @classmethod
    def of(cls, record: Record) -> Timing:
        """The timing that ``to_record`` turned into a record."""
        return cls.from_json(
            {
                **record.facts,
                **record.scores,
                "arm": record.arm,
                "status": record.status,
                "reason": record.reason,
                "peak_bytes": record.peak_memory_bytes,
            },
            where=f"record {record.task}, arm {record.arm!r}",
        )


def clock_of_machine() -> Callable[[], float]:
    """Processor time where one thread works, which other processes disturb less; else wall time."""
    one_thread = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if one_thread else time.perf_counter


def flops_share(flops: float | None, seconds: float, rate: float) -> float | None:
    """FLOPs per second as a share of the measured GEMM rate."""
    return None if flops is None else flops / seconds / rate


class Cell:
    """One arm of a group while it is timed. ``contender``: what is called; None: nothing (any more)."""

    def __init__(self, arm: PlannedArm, timing: Timing) -> None:
        self.arm, self.timing = arm, timing
        self.contender: Contender | None = None
        self.seconds: list[float] = []

    @property
    def is_live(self) -> bool:
        return self.contender is not None

    def note(self, **changes: Any) -> None:
        """Set fields of the timing."""
        self.timing = replace(self.timing, **changes)

    def stop(self, status: str, reason: str) -> None:
        """Leave the group without a time."""
        self.contender = None
        self.note(status=status, reason=reason)

    @contextmanager
    def limits(self) -> Iterator[None]:
        """Inside, what stops this arm on this machine becomes its status.

        Compiled code may fail in any way; an error of eager code is a bug, and raised.
        """
        try:
            yield
        except Exception as error:
            line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            if is_memory_error(error):
                self.stop(NO_MEMORY, line)
            elif self.timing.compiled or isinstance(error, (UserError, NotImplementedError)):
                self.stop(FAILED, f"{type(error).__name__}: {line}")
            else:
                raise

    def warm_up(self, settings: Settings, clock: Callable[[], float]) -> float:
        """Seconds of one call when warm, every part of it in full; peak memory on the way."""
        assert self.contender is not None
        cell = self.contender
        self.note(parameters=cell.parameters, tokens_per_call=cell.tokens)
        self.note(state_bytes=cell.state_bytes, settled_bytes=cell.settled_bytes)
        if self.timing.compiled:
            first = time.perf_counter()
            for _, call in cell.parts:
                call()
            self.note(compile_seconds=time.perf_counter() - first)
        first = time.perf_counter()
        if self.timing.mode == "decode":  # what decoding holds is its state
            cell.seconds(clock)
        else:
            self.note(peak_bytes=cell.peak(settings.device))
        duration_of_first = time.perf_counter() - first
        if duration_of_first * 10 > settings.cell_seconds:
            return duration_of_first
        # a second one where it is cheap: the recorder slows many small operators down
        first = time.perf_counter()
        cell.seconds(clock)
        return time.perf_counter() - first

    def time_once(self, clock: Callable[[], float]) -> None:
        """One round."""
        assert self.contender is not None
        with self.limits():
            self.seconds.append(self.contender.seconds(clock))

    def finish(self) -> Timing:
        """The timing, with medians and rates where it was measured."""
        timing, tokens = self.timing, self.timing.tokens_per_call
        if not timing.is_measured:
            return timing
        assert tokens is not None
        median, low, high = middle(self.seconds)
        return replace(
            timing,
            seconds=tuple(self.seconds),
            ms=1e3 * median,
            ms_low=1e3 * low,
            ms_high=1e3 * high,
            tokens_per_second=tokens / median,
            mfu=flops_share(timing.flops, median, timing.gemm_rate),
            hfu=flops_share(timing.executed_flops, median, timing.gemm_rate),
        )


class Timer:
    """Times the groups of one study.

    ``timings``: of earlier groups, from which time and memory of the next length are foreseen. ``build``:
    makes what is called of a cell.
    """

    def __init__(
        self,
        settings: Settings,
        arms: Sequence[PlannedArm],
        timings: Sequence[Timing] = (),
        build: Build = contender,
    ) -> None:
        self.settings, self.arms, self.build = settings, arms, build
        self.clock = clock_of_machine()
        self.history: dict[tuple[str, Series], list[Timing]] = {}
        for timing in timings:
            self._learn(timing)

    def group(self, group: Group) -> list[Timing]:
        """A timing of each arm. Raises: KeyboardInterrupt; an error that is no limit of this machine."""
        dtype = torch.bfloat16 if self.settings.dtype == "bfloat16" else torch.float32
        rate = measure_gemm_rate(dtype, self.clock)
        cells = [self._cell(arm, group, rate) for arm in self.arms]
        rounds = min(self._start(cell, group) for cell in cells)
        for _ in range(rounds):
            for cell in cells:
                if cell.is_live:
                    cell.time_once(self.clock)
        timings = [cell.finish() for cell in cells]
        for timing in timings:
            self._learn(timing)
        if group.compiled:
            torch._dynamo.reset()  # compiled code of one group is of no use to the next
        return timings

    def _cell(self, arm: PlannedArm, group: Group, rate: float) -> Cell:
        config = self.settings.decoder(arm, group)
        executed = None if group.compiled else executed_flops(config, group, self.settings.device)
        timing = Timing(
            **asdict(group),
            arm=arm.name,
            flops=canonical_flops(config, group),
            executed_flops=executed,
            gemm_rate=rate,
        )
        return Cell(arm, timing)

    def _start(self, cell: Cell, group: Group) -> int:
        """Build and warm up; returns how many rounds fit the cell's time."""
        settings = self.settings
        if self._is_foreseen_to_stop(cell):
            return settings.repeats
        rounds = settings.repeats
        started = time.perf_counter()
        with cell.limits():
            cell.contender = self.build(cell.arm, group, settings)
            cell.note(setup_seconds=time.perf_counter() - started)
            seconds = cell.warm_up(settings, self.clock)
            cell.note(call_seconds=seconds)
            fit = int((settings.cell_seconds - (time.perf_counter() - started)) / max(seconds, 1e-9))
            if fit < LEAST_REPEATS:
                cell.stop(TIME_OUT, f"a call took {duration(seconds)}; {self._limit}")
            rounds = min(rounds, max(fit, LEAST_REPEATS))
        if not cell.is_live:
            release_memory()
        return rounds

    @property
    def _limit(self) -> str:
        return f"{LEAST_REPEATS} more do not fit cell_seconds = {self.settings.cell_seconds:g}"

    # --- foresight ----------------------------------------------------------------------------------------

    def _learn(self, timing: Timing) -> None:
        self.history.setdefault((timing.arm, timing.series), []).append(timing)

    def _is_foreseen_to_stop(self, cell: Cell) -> bool:
        """Stop a cell that would run too long or take too much memory, by what shorter lengths took."""
        timing = cell.timing
        history = self.history.get((timing.arm, timing.series), [])
        shorter = sorted(
            (other for other in history if other.tokens < timing.tokens), key=lambda other: other.tokens
        )
        seconds = foreseen_seconds(shorter, timing)
        if seconds is not None and seconds * (LEAST_REPEATS + 1) > self.settings.cell_seconds:
            cell.stop(TIME_OUT, f"foreseen: a call would take about {duration(seconds)}; {self._limit}")
            cell.note(call_seconds=seconds)  # a guess that the next length is guessed from
            return True
        peak, free = foreseen_peak(shorter, timing), free_bytes()
        if peak is not None and free is not None and peak > MARGIN * free:
            sizes = f"about {peak / 2**30:.1f} GiB of {free / 2**30:.1f} GiB that are free"
            cell.stop(NO_MEMORY, f"foreseen: {sizes}")
            return True
        return False


def is_memory_error(error: Exception) -> bool:
    """Python's, CUDA's, and the error without a class of its own that torch's CPU allocator raises."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def release_memory() -> None:
    """Give back what a cell that failed half-way may have left in cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
