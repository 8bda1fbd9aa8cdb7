"""Freed buffers stay with a process that trains, unless it is told otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arch_lab import memory
from arch_lab.accounting import ledger
from arch_lab.memory import VARIABLE, available_memory, keep_memory, keeps_memory
from arch_lab.models import Shape, recipe
from arch_lab.study.estimate import HELD, HELD_KEPT, activation_bytes, estimate
from arch_lab.study.executor import Processes

ROOT = Path(__file__).resolve().parents[2]
BUFFERS, PAGES = 8, 8192  # of 4 KB each: 32 MiB per buffer
SCRIPT = f"""
import arch_lab.memory
from resource import RUSAGE_SELF, getrusage
arch_lab.memory.keep_memory()
before = getrusage(RUSAGE_SELF).ru_minflt
for _ in range({BUFFERS}):
    b"x" * {4096 * PAGES}
print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""
with_glibc = pytest.mark.skipif(not keeps_memory(), reason="no glibc, or its settings are the user's")


class Buffers:
    """A context whose trial fills and frees buffers, and counts page faults."""

    def open(self) -> None: ...

    def run(self, trial: Any, observer: Any) -> dict[str, Any]:
        from resource import RUSAGE_SELF, getrusage

        before = getrusage(RUSAGE_SELF).ru_minflt
        for _ in range(BUFFERS):
            b"x" * (4096 * PAGES)
        return {"faults": getrusage(RUSAGE_SELF).ru_minflt - before}


def faults(**environment: str) -> int:
    """Page faults of a process that asks to keep memory under these environment variables."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@with_glibc
def test_a_worker_process_keeps_freed_buffers() -> None:
    executor = Processes(1, threads=1)
    try:
        ((_, result),) = executor.run(
            [SimpleNamespace(label="buffers")], Buffers(), lambda event, facts: None
        )
    finally:
        executor.close()
    assert result["faults"] < 1.5 * PAGES  # the first buffer alone


@with_glibc
@pytest.mark.parametrize(
    ("environment", "buffers"),
    [({}, 1), ({VARIABLE: "0"}, BUFFERS), ({"MALLOC_MMAP_THRESHOLD_": "131072"}, BUFFERS)],
    ids=["kept", "off", "chosen by the user"],
)
def test_buffers_fault_in_once_or_each_time(environment: dict[str, str], buffers: int) -> None:
    assert abs(faults(**environment) / PAGES - buffers) < 0.5


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems_keep_their_allocator(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert not keep_memory() and not keeps_memory()
    memory.release_memory()


def test_a_c_library_without_mallopt_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace())  # as musl's
    assert not keep_memory() and not keeps_memory()
    memory.release_memory()


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_available_memory_is_part_of_the_machine() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < (available_memory() or 0) <= total


@with_glibc
def test_the_plan_follows_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe("gemma1").config(Shape(width=32, depth=1, ffn_width=32), vocabulary=64, max_tokens=64)
    costs, model = ledger(config, tokens=64, batch=4), config.build("meta")
    kept = estimate(costs, model, Fraction(1)).memory_bytes
    monkeypatch.setenv(VARIABLE, "0")
    extra = estimate(costs, model, Fraction(1)).memory_bytes - kept
    assert extra == pytest.approx((HELD - HELD_KEPT) * activation_bytes(model, 4, 64))


@pytest.mark.slow
@with_glibc
def test_a_step_of_long_rows_faults_ten_times_less() -> None:
    from arch_lab.bench.faults import FaultRow
    from arch_lab.bench.suites import run_suite

    rows = list(run_suite("faults"))
    assert [row.name.split()[0] for row in rows] == ["gemma3", "m2_gpt"]
    for row in rows:
        assert isinstance(row, FaultRow) and row.ours_faults * 10 <= row.peer_faults
