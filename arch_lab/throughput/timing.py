"""One group of cells, timed: all arms in turn, round by round, so that a pair of arms drifts together and its ratio does not.

Whatever an arm cannot do here becomes a row with the reason, and the others go on: too little memory (met, or foreseen
from the length before), a compiler that fails, or a call so slow that LEAST_REPEATS of them do not fit the time of a cell
(foreseen from the length before and the FLOPs, or met on the first call). A process the system has killed writes no row,
hence the foresight.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from arch_lab.console import duration
from arch_lab.judge.crossover import middle
from arch_lab.study.planning import measure_gemm_rate
from arch_lab.throughput.config import LEAST_REPEATS, Group, ThroughputConfig
from arch_lab.throughput.contenders import Contender, Settings, contender
from arch_lab.throughput.work import asked, executed
from blocks.errors import UserError

MEASURED, NO_MEMORY, TIME_OUT, FAILED = "measured", "out of memory", "time-out", "failed"
MARGIN = 0.9  # of the free memory a cell may be foreseen to take
FACTS = ("parameters", "state_bytes", "settled_bytes", "peak_bytes", "tokens_per_call", "compile_seconds")
Row = dict[str, Any]
Build = Callable[[dict[str, Any], Group, Settings], Contender]


def clock_here() -> Callable[[], float]:
    """Processor time where one thread works: what else the machine does then disturbs less."""
    return (
        time.process_time
        if torch.get_num_threads() == 1 and not torch.cuda.is_available()
        else time.perf_counter
    )


class Timer:
    """Times the groups of one study. ``before``: rows of earlier groups, from which the cost of the next length is foreseen."""

    def __init__(
        self,
        config: ThroughputConfig,
        arms: Sequence[dict[str, Any]],
        before: Sequence[Row],
        build: Build = contender,
    ) -> None:
        self.config, self.arms, self.build = config, list(arms), build
        self.settings, self.clock = Settings.of(config), clock_here()
        self.known: dict[tuple[Any, ...], list[Row]] = {}
        for row in before:
            self._learn(row)

    def group(self, group: Group) -> list[Row]:
        """A row an arm. Raises: KeyboardInterrupt; whatever is a bug rather than a limit of this machine."""
        rate = measure_gemm_rate(
            torch.bfloat16 if self.config.dtype == "bfloat16" else torch.float32, self.clock
        )
        rows = [self._blank(arm, group, rate) for arm in self.arms]
        live: dict[int, Contender] = {}
        rounds = self.config.repeats
        for i, (arm, row) in enumerate(zip(self.arms, rows, strict=True)):
            if self._foreseen(row):
                continue
            started = time.perf_counter()
            with _limits(row, group):
                live[i] = self.build(arm, group, self.settings)
                row["setup_seconds"] = time.perf_counter() - started
                row["call_seconds"] = one = self._warm_up(live[i], row, group)
                fit = int((self.config.cell_seconds - (time.perf_counter() - started)) / max(one, 1e-9))
                if fit < LEAST_REPEATS:
                    row |= {"status": TIME_OUT, "reason": f"a call took {duration(one)}; {self._limit()}"}
                rounds = min(rounds, max(fit, LEAST_REPEATS))
            if row["status"] != MEASURED:
                live.pop(i, None)
                _release()
        self._rounds(rows, live, rounds, group)
        for row in rows:
            self._finish(row)
            self._learn(row)
        if group.compiled:
            torch._dynamo.reset()  # compiled code of one group is of no use to the next
        return rows

    def _limit(self) -> str:
        return f"{LEAST_REPEATS} more do not fit cell_seconds = {self.config.cell_seconds:g}"

    def _blank(self, arm: dict[str, Any], group: Group, rate: float) -> Row:
        config = self.settings.decoder(arm, group)
        sizes: dict[str, Any] = {
            "level": group.level,
            "mode": group.mode,
            "tokens": group.tokens,
            "batch": group.batch,
        }
        return {
            **sizes,
            "arm": arm["name"],
            "compiled": group.compiled,
            "status": MEASURED,
            "reason": "",
            "flops": asked(config, **sizes),
            "executed_flops": None
            if group.compiled
            else executed(config, **sizes, device=self.settings.device),
            "gemm_rate": rate,
            "seconds": [],
        }

    def _warm_up(self, cell: Contender, row: Row, group: Group) -> float:
        """Seconds of one call when warm, every part of it in full; peak memory on the way."""
        row["parameters"], row["state_bytes"], row["settled_bytes"] = (
            cell.parameters,
            cell.state_bytes,
            cell.settled_bytes,
        )
        row["tokens_per_call"] = cell.tokens
        if group.compiled:
            first = time.perf_counter()
            for _, call in cell.parts:
                call()
            row["compile_seconds"] = time.perf_counter() - first
        first = time.perf_counter()
        if group.mode == "decode":  # what decoding holds is its state
            cell.seconds(self.clock)
        else:
            row["peak_bytes"] = cell.peak(self.settings.device)
        one = time.perf_counter() - first
        if one * 10 > self.config.cell_seconds:
            return one
        # a second one where it is cheap: the recorder slows many small operators down
        first = time.perf_counter()
        cell.seconds(self.clock)
        return time.perf_counter() - first

    def _rounds(self, rows: list[Row], live: dict[int, Contender], rounds: int, group: Group) -> None:
        for _ in range(rounds):
            for i in list(live):
                with _limits(rows[i], group):
                    rows[i]["seconds"].append(live[i].seconds(self.clock))
                if rows[i]["status"] != MEASURED:
                    del live[i]

    def _finish(self, row: Row) -> None:
        """Medians and rates of what was measured; nothing of what was not."""
        for key in ("ms", "ms_low", "ms_high", "tokens_per_second", "mfu", "hfu"):
            row[key] = None
        for key in (*FACTS, "call_seconds", "setup_seconds"):
            row.setdefault(key, None)
        if row["status"] != MEASURED:
            row["seconds"] = []
            return
        median, low, high = middle(row["seconds"])
        row |= {"ms": 1e3 * median, "ms_low": 1e3 * low, "ms_high": 1e3 * high}
        row["tokens_per_second"] = row["tokens_per_call"] / median
        row |= {
            "mfu": share(row["flops"], median, row["gemm_rate"]),
            "hfu": share(row["executed_flops"], median, row["gemm_rate"]),
        }

    # --- foresight ------------------------------------------------------------------------------------------------

    def _learn(self, row: Row) -> None:
        self.known.setdefault(_series(row), []).append(row)

    def _foreseen(self, row: Row) -> bool:
        """Marks a row that would run too long or take too much memory, by what the lengths before it took."""
        before = sorted(
            (r for r in self.known.get(_series(row), []) if r["tokens"] < row["tokens"]),
            key=lambda r: r["tokens"],
        )
        seconds = call_seconds(before, row)
        if seconds is not None and seconds * (LEAST_REPEATS + 1) > self.config.cell_seconds:
            row |= {
                "status": TIME_OUT,
                "reason": f"foreseen: a call would take about {duration(seconds)}; {self._limit()}",
            }
            row["call_seconds"] = seconds  # a guess that the next length is guessed from
            return True
        wanted, free = peak_foreseen(before, row), free_bytes()
        if wanted is not None and free is not None and wanted > MARGIN * free:
            row |= {
                "status": NO_MEMORY,
                "reason": f"foreseen: about {wanted / 2**30:.1f} GiB of {free / 2**30:.1f} GiB that are free",
            }
            return True
        return False


def share(flops: float | None, seconds: float, rate: float) -> float | None:
    """FLOPs a second as a share of the measured GEMM rate."""
    return None if flops is None else flops / seconds / rate


def call_seconds(before: Sequence[Row], row: Mapping[str, Any]) -> float | None:
    """Seconds of a call, from the longest shorter length: in proportion to the FLOPs asked for, or to T while decoding."""
    last = next((r for r in reversed(before) if r.get("call_seconds")), None)
    if last is None:
        return None
    grown = row["flops"] / last["flops"] if row["flops"] and last["flops"] else row["tokens"] / last["tokens"]
    return float(last["call_seconds"] * grown)


def peak_foreseen(before: Sequence[Row], row: Mapping[str, Any]) -> float | None:
    """Peak bytes of a sequence grow as they last did, at least in proportion to T; unknown until one length was measured."""
    peaks = [(r["tokens"], r["peak_bytes"] / r["batch"]) for r in before if r.get("peak_bytes")]
    if not peaks:
        return None
    tokens, peak = peaks[-1]
    power = 1.0
    if len(peaks) > 1 and peaks[-2][1] > 0 < peak:
        power = min(2.0, max(1.0, math.log(peak / peaks[-2][1]) / math.log(tokens / peaks[-2][0])))
    return float(row["batch"] * peak * (row["tokens"] / tokens) ** power)


def free_bytes() -> int | None:
    """Memory a new tensor may still take; None where the system does not tell."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _series(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["arm"], row["level"], row["mode"], row["compiled"]


# --- limits of this machine -------------------------------------------------------------------------------------------


class _limits:
    """Turns what stops one arm here into the row's status. Compiled code may fail in any way; eager code that does is a bug."""

    def __init__(self, row: Row, group: Group) -> None:
        self.row, self.compiled = row, group.compiled

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        if is_memory(error):
            self.row |= {"status": NO_MEMORY, "reason": line}
        elif self.compiled or isinstance(error, (UserError, NotImplementedError)):
            self.row |= {"status": FAILED, "reason": f"{type(error).__name__}: {line}"}
        else:
            return False
        return True


def is_memory(error: Exception) -> bool:
    """Python's, CUDA's, and the error without a class of its own that torch's CPU allocator raises."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _release() -> None:
    """Give back what a cell that failed half-way may have left in cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
