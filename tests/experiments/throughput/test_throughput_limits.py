"""Limits of the machine in a study of speed are records with a reason; bugs are not."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
import torch

import arch_lab
from arch_lab.study import storage
from arch_lab.study.engine import silent
from arch_lab.study.plan import PlannedArm
from arch_lab.study.study import Study
from arch_lab.study.trial import Job, Trial
from experiments.throughput import contenders, timing
from experiments.throughput.config import Group
from experiments.throughput.contenders import Contender, Settings
from experiments.throughput.experiment import EXPERIMENT
from experiments.throughput.results import Details
from experiments.throughput.timing import Timing
from tests.experiments.throughput.speed_study import (
    finished,
    opened,
    quick,
    time_with,
    timings_of,
    write_study,
)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no more"),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 GB"),
    ],
)
@pytest.mark.parametrize("stage", ["built", "called"])
def test_an_arm_without_memory_becomes_a_record_and_the_others_go_on(error: Exception, stage: str) -> None:
    def fail() -> NoReturn:
        raise error

    def build(arm: PlannedArm, group: Group, settings: Settings) -> Contender:
        if arm.name == "m2_gpt" and group.tokens == 64:
            return fail() if stage == "built" else Contender(parts=[(1.0, fail)], tokens=64, parameters=1)
        return quick()

    timings = timings_of(build)
    assert [(t.arm, t.tokens, t.status) for t in timings] == [
        ("gemma3", 32, "finished"),
        ("m2_gpt", 32, "finished"),
        ("gemma3", 64, "finished"),
        ("m2_gpt", 64, "out of memory"),
    ]
    lost = timings[-1]
    assert lost.reason and lost.tokens_per_second is None and lost.seconds == ()


@pytest.fixture(scope="module")
def lost() -> Study:
    """A study whose arms have no length in common, for lack of memory."""

    def build(arm: PlannedArm, group: Group, settings: Settings) -> Contender:
        if group.tokens == 64 or arm.name == "m2_gpt":
            raise MemoryError("nothing left")
        return quick()

    study = opened(levels=["model"], modes=["forward"])
    return finished(study, time_with(build, study))


def test_a_record_of_a_lost_cell_has_a_reason_and_no_score(lost: Study) -> None:
    record = lost.results[-1]
    assert (record.status, record.reason, record.scores) == ("out of memory", "nothing left", {})


def test_arms_without_a_common_length_are_not_compared(lost: Study) -> None:
    assert Details.from_json(lost.details).ratios == ()
    assert "they cannot be compared" in lost.verdict.text


def test_the_report_names_lost_cells(lost: Study) -> None:
    (gaps,) = (section for section in EXPERIMENT.sections(lost) if section.anchor == "gaps")
    assert gaps.title == "What did not run"
    assert [row[-1] for row in gaps.tables[0].rows] == ["nothing left"] * 3


def test_an_arm_that_runs_out_of_memory_while_it_is_timed_leaves_the_rounds() -> None:
    calls = [0]

    def late() -> None:
        calls[0] += 1
        if calls[0] > 3:
            raise MemoryError

    slow = Contender(parts=[(1.0, late)], tokens=1, parameters=1)
    timings = timings_of(lambda arm, *_: quick() if arm.name == "gemma3" else slow)
    assert [t.status for t in timings] == ["finished", "out of memory"] * 2


def test_after_a_time_out_longer_lengths_are_not_started() -> None:
    started: list[tuple[str, int]] = []

    def build(arm: PlannedArm, group: Group, settings: Settings) -> Contender:
        started.append((arm.name, group.tokens))
        return quick(0.15 if arm.name == "m2_gpt" else 0)

    timings = timings_of(build, cell_seconds=0.4)
    assert [t.status for t in timings] == ["finished", "time-out"] * 2
    assert "a call took" in timings[1].reason
    assert timings[3].reason.startswith("foreseen: a call would take about")
    assert ("m2_gpt", 64) not in started and ("gemma3", 64) in started


def test_times_of_an_earlier_call_foresee_a_time_out(tmp_path: Path) -> None:
    study = opened(levels=["model"], modes=["forward"])
    short, long = (Trial(task=task) for task in study.groups)
    slow = {"gemm_rate": 1.0, "flops": 1.0, "status": "time-out", "call_seconds": 100.0}
    group = study.groups[short.task].to_json()
    records = [Timing(**group, arm=arm.name, **slow).to_record() for arm in study.arms]
    folder = short.folder(tmp_path)
    folder.mkdir(parents=True)
    storage.write_result(folder, records, study.identity(short))
    job = Job(long, "throughput", long.folder(tmp_path), tmp_path, silent)
    assert {record.status for record in study.run(long, job)} == {"time-out"}


def test_memory_that_would_not_suffice_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(arm: PlannedArm, group: Group, settings: Settings) -> Contender:
        return Contender(parts=[(1.0, lambda: torch.empty(2**18))], tokens=64, parameters=1)  # 1 MiB a call

    monkeypatch.setattr(timing, "free_bytes", lambda: 2**20)
    first, second, *others = timings_of(build, tokens_per_step=64)
    assert first.is_measured and second.is_measured  # nothing is known of the first length
    assert all(t.status == "out of memory" and t.reason.startswith("foreseen") for t in others)


def test_a_bug_is_no_record() -> None:
    def build(*_: object) -> Contender:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        timings_of(build)


def test_a_compiler_that_fails_is_a_record_and_eager_cells_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(module: object) -> object:
        raise RuntimeError("no C++ compiler\nsecond line")

    monkeypatch.setattr(contenders.torch, "compile", broken)
    path = write_study(tmp_path, levels=["mixer"], modes=["forward"], compiled=[False, True], lengths=[32])
    study = arch_lab.compare(str(path), output=tmp_path / "runs", threads=1, quiet=True)
    timings = [Timing.of(record) for record in study.results]
    assert [(t.compiled, t.status) for t in timings] == [(False, "finished")] * 2 + [(True, "failed")] * 2
    assert timings[-1].reason == "RuntimeError: no C++ compiler"


@pytest.mark.slow
def test_a_compiled_cell_reports_what_compiling_took(tmp_path: Path) -> None:
    changes = {"levels": ["mixer"], "modes": ["forward"], "compiled": [True], "lengths": [32]}
    path = write_study(tmp_path, **changes, cell_seconds=600)
    study = arch_lab.compare(str(path), output=tmp_path / "runs", threads=1, quiet=True)
    for t in map(Timing.of, study.results):
        assert t.is_measured and t.compile_seconds > t.ms / 1e3 and t.hfu is None
