"""Worker processes: the same numbers as in one process, nothing lost when one dies, nothing left when the study is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import arch_lab
from arch_lab.cli import main
from arch_lab.study.executor import Processes, make_executor
from arch_lab.training.saving import CHECKPOINT
from blocks.errors import ConfigError, UserError
from tests.cli.squares import Number, Squares
from tests.small_study import small_study

ROOT = Path(__file__).resolve().parents[2]
MEASURED = {
    "tokens_per_second",
    "peak_memory_bytes",
    "seconds",
    "estimate",
    "environment",
    "checksum",
    "command",
    "curves",
}


SCRIPT = """
from pathlib import Path
from arch_lab.study.executor import Processes
from tests.cli.squares import Number, Squares
print("ran once")
trials = Processes(1, threads=1).run([Number(3, Path("."))], Squares(), lambda event, facts: None)
print([result["square"] for _, result in trials])
"""


def without_measurements(value: Any) -> Any:
    """``value`` without what differs from one execution to the next: times, memory, and what is sealed with them."""
    if isinstance(value, dict):
        return {k: without_measurements(v) for k, v in value.items() if k not in MEASURED}
    return [without_measurements(v) for v in value] if isinstance(value, list) else value


@pytest.fixture
def executor() -> Iterator[Processes]:
    processes = Processes(2, threads=1)
    yield processes
    processes.close()


@pytest.mark.slow
def test_worker_processes_give_the_numbers_of_one_process(tmp_path: Path) -> None:
    study = small_study(tmp_path, budget={"params": 6.0e4, "train_flops": 9.0e8, "tolerance": 0.02})
    for name, workers in (("inline", "1"), ("processes", "2")):
        options = ["--output", str(tmp_path / name), "--executor", name, "--workers", workers, "--quiet"]
        assert main(["compare", str(study), *options]) == 0
    inline, processes = (
        json.loads((tmp_path / name / "small/study.json").read_text()) for name in ("inline", "processes")
    )
    assert without_measurements(inline) == without_measurements(processes)


def test_a_trial_whose_worker_is_killed_runs_again(tmp_path: Path, executor: Processes) -> None:
    (tmp_path / "deaths").write_text("1")
    notes: list[str] = []
    trials = [Number(i, tmp_path) for i in range(4)]
    results = dict(
        executor.run(trials, Squares(), lambda event, facts: notes.append(str(facts.get("text", ""))))
    )
    assert {i: r["square"] for i, r in results.items()} == {0: 0, 1: 1, 2: 4, 3: 9}
    assert [n for n in notes if n] == ["the worker process of number 0 died (SIGKILL): the trial runs again"]


def test_a_trial_that_kills_every_worker_ends_the_study_in_one_line(
    tmp_path: Path, executor: Processes
) -> None:
    (tmp_path / "deaths").write_text("9")
    with pytest.raises(
        ConfigError, match="number 0: its worker process died 3 times, the last time by SIGKILL"
    ):
        list(executor.run([Number(0, tmp_path)], Squares(), lambda event, facts: None))


def test_an_error_in_a_worker_is_raised_here(tmp_path: Path, executor: Processes) -> None:
    with pytest.raises(UserError, match="-1 is negative"):
        list(executor.run([Number(-1, tmp_path)], Squares(), lambda event, facts: None))
    assert not executor._alive


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--executor", "proceses"], "did you mean 'processes'"),
        (["--executor", "inline", "--workers", "2"], "use --executor processes"),
        (["--workers", "0"], "at least 1"),
    ],
)
def test_a_wrong_executor_is_refused_in_one_line(
    tmp_path: Path, capsys: Any, options: list[str], message: str
) -> None:
    assert main(["compare", str(small_study(tmp_path)), "--output", str(tmp_path / "runs"), *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error and not (tmp_path / "runs").exists()


def test_workers_are_as_many_as_runs_and_memory_allow() -> None:
    few = make_executor("processes", workers=8, threads=1, memory_bytes=0.0, trials=3)
    huge = make_executor("processes", workers=None, threads=1, memory_bytes=1e18, trials=3)
    assert (few.workers, huge.workers) == (3, 1)


def test_a_study_of_tasks_or_speed_says_that_it_runs_inline(tmp_path: Path, capsys: Any) -> None:
    assert main(["compare", "throughput", "--output", str(tmp_path), "--executor", "processes"]) == 2
    assert "runs its trials one after the other" in capsys.readouterr().err


@pytest.fixture
def long_study(tmp_path: Path) -> Path:
    return small_study(
        tmp_path,
        budget={"params": 6.0e4, "train_flops": 6.0e10, "tolerance": 0.02},
        learning_rates=[0.002, 0.004],
        seeds=[0, 1],
    )


def hear_interrupts() -> None:
    """A shell starts what runs in its background with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(study: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "arch_lab", "compare", str(study), "--output", str(output)]
    command += ["--executor", "processes", "--workers", "2"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, preexec_fn=hear_interrupts, **pipes)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of children that run trials."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "spawn_main" in line]


def wait_for_training(output: Path, process: subprocess.Popen[str], seconds: float = 240.0) -> None:
    """Until two workers run and two runs have written records."""
    end = time.monotonic() + seconds
    while len(workers_of(process)) < 2 or len(list(output.glob("small/runs/*/*/metrics.jsonl"))) < 2:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.2)


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_study_within_seconds_and_leaves_no_child(
    long_study: Path, tmp_path: Path, number: int, code: int
) -> None:
    process = start(long_study, tmp_path / "runs")
    wait_for_training(tmp_path / "runs", process)
    children = workers_of(process)
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(30) == code
    assert time.monotonic() - began < 8  # 2 on an idle machine; other tests run at the same time
    assert len(children) == 2 and not any(map(is_running, children))
    assert len(list((tmp_path / "runs").glob(f"small/runs/*/*/{CHECKPOINT}"))) == 2


@pytest.mark.slow
def test_workers_end_when_their_study_is_killed_and_its_lock_is_free(
    long_study: Path, tmp_path: Path
) -> None:
    process = start(long_study, tmp_path / "runs")
    wait_for_training(tmp_path / "runs", process)
    children = workers_of(process)
    process.kill()
    process.wait()
    end = time.monotonic() + 15
    while any(map(is_running, children)) and time.monotonic() < end:
        time.sleep(0.2)
    assert len(children) == 2 and not any(map(is_running, children))
    smaller = arch_lab.compare(
        str(small_study(tmp_path / "other")), output=tmp_path / "other/runs", quiet=True
    )
    assert smaller.results
    again = start(long_study, tmp_path / "runs")  # the lock of a dead holder is free
    wait_for_training(tmp_path / "runs", again)
    again.send_signal(signal.SIGINT)
    assert again.wait(30) == 130


@pytest.mark.slow
def test_a_killed_worker_changes_no_number(tmp_path: Path) -> None:
    study = small_study(
        tmp_path,
        budget={"params": 6.0e4, "train_flops": 6.0e9, "tolerance": 0.02},
        learning_rates=[0.002, 0.004],
    )
    whole = start(study, tmp_path / "whole")
    killed = start(study, tmp_path / "killed")
    wait_for_training(tmp_path / "killed", killed)
    os.kill(workers_of(killed)[0], signal.SIGKILL)
    out = {process: process.communicate(timeout=400) for process in (whole, killed)}
    assert whole.returncode == killed.returncode == 0, out
    assert "died (SIGKILL): the trial runs again" in out[killed][1]
    studies = [json.loads((tmp_path / name / "small/study.json").read_text()) for name in ("whole", "killed")]
    assert without_measurements(studies[0]) == without_measurements(studies[1])


@pytest.mark.slow
def test_a_study_leaves_the_threads_of_the_process_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        result = arch_lab.compare(str(small_study(tmp_path)), output=tmp_path / "runs", quiet=True)
        assert torch.get_num_threads() == 3
        assert {record.machine.threads for record in result.results} == {1}
    finally:
        torch.set_num_threads(before)


def test_a_script_without_a_guard_can_use_worker_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (0, "ran once\n[9]\n"), done.stderr[-2000:]
