"""A throughput study that takes seconds, as a file, as an opened study, and with cells that a test builds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from arch_lab.study.config import from_study
from arch_lab.study.study import Study, study_of
from experiments.throughput.config import ThroughputConfig
from experiments.throughput.contenders import Contender, Settings
from experiments.throughput.experiment import EXPERIMENT, ThroughputStudy
from experiments.throughput.timing import Build, Timer, Timing

GROUPS = 8  # per length: mixer and layer in two modes, the model in four
STUDY: dict[str, Any] = {
    "description": "tiny",
    "experiment": "throughput",
    "arms": [
        {"architecture": "gemma3", "options": {"pattern": "L", "window": 16}},
        {"architecture": "m2_gpt", "options": {"train_positions": True}},
    ],
    "budget": {"params": 6.0e4},
    "vocabulary": 64,
    "match_length": 64,
    "lengths": [32, 64],
    "tokens_per_step": 128,
    "decode_tokens": 4,
    "repeats": 3,
    "cell_seconds": 60,
}


def write_study(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "throughput.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}), encoding="utf-8")
    return path


def opened(**changes: Any) -> ThroughputStudy:
    """The study in memory, planned."""
    content = {**STUDY, **changes, "name": "throughput"}
    study = EXPERIMENT.open(from_study(ThroughputConfig, content, "throughput"))
    study.planned = study.plan(lambda line: None)
    return study


def timings_of(build: Build, **changes: Any) -> list[Timing]:
    """Timings of whole models whose cells ``build`` makes."""
    return time_with(build, opened(levels=["model"], modes=["forward"], **changes))


def time_with(build: Build, study: ThroughputStudy) -> list[Timing]:
    timer = Timer(Settings.of(study.config), study.arms, build=build)
    return [timing for group in study.groups.values() for timing in timer.group(group)]


def finished(study: ThroughputStudy, timings: Sequence[Timing]) -> Study:
    """The judged study of timings."""
    records = [timing.to_record() for timing in timings]
    return study_of(study.planned, study.judge(study.planned, records, ()), records)


def quick(seconds: float = 0.0) -> Contender:
    return Contender(parts=[(1.0, lambda: time.sleep(seconds))], tokens=64, parameters=1)
