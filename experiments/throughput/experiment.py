"""Throughput: nothing is trained. Every arm is timed against the others, over sequence lengths.

A trial is one group: all arms at one length, level and mode, called in turn. A group that was timed is kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch

from arch_lab import sealed
from arch_lab.judge.records import Baseline, Judgement, Record, Verdict
from arch_lab.laws import certify_model
from arch_lab.models import recipe
from arch_lab.report.section import Section
from arch_lab.stored import Json
from arch_lab.study import storage
from arch_lab.study.code_identity import conditions
from arch_lab.study.environment import cpu_name
from arch_lab.study.events import open_events
from arch_lab.study.open_study import Certificate, Experiment, OpenStudy, Progress
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.trial import Job, Trial
from arch_lab.units import short
from blocks.errors import ConfigError
from experiments.throughput.config import Group, PlannedGroup, ThroughputConfig
from experiments.throughput.contenders import Settings
from experiments.throughput.planning import build_plan, planned_arms
from experiments.throughput.results import Details
from experiments.throughput.sections import sections_of
from experiments.throughput.timing import Timer, Timing, clock_of_machine
from experiments.throughput.verdict import verdict_text, warnings_of

NOT_TIMED = ("description", "threads")  # keys that determine no time; the threads in effect are a condition


class ThroughputStudy(OpenStudy):
    """One study of speed."""

    in_processes = False  # trials that share a machine would disturb each other
    noun = "times"
    config: ThroughputConfig

    def __init__(self, config: ThroughputConfig) -> None:
        super().__init__(config)
        self._timer: Timer | None = None

    @cached_property
    def arms(self) -> tuple[PlannedArm, ...]:
        """The arms at their solved shapes."""
        return planned_arms(self.config)

    @cached_property
    def groups(self) -> dict[str, Group]:
        """Name of a task -> what it times."""
        return {group.slug: group for group in self.config.groups()}

    def plan(self, progress: Progress) -> Plan:
        return build_plan(self.config, self.arms)

    def settings(self, config: Json) -> Json:
        return {key: value for key, value in config.items() if key not in NOT_TIMED}

    def certificate_identity(self, arm: PlannedArm) -> Json:
        return {
            "architecture": arm.architecture,
            "options": arm.options,
            **asdict(arm.shape),
            "vocabulary": self.config.vocabulary,
            "max_tokens": self.config.match_length,
        }

    def certify(self, arm: PlannedArm) -> Certificate:
        tokens, vocabulary = self.config.match_length, self.config.vocabulary
        model = recipe(arm.architecture, arm.options).model(
            arm.shape, vocabulary=vocabulary, max_tokens=tokens
        )
        return certify_model(model, vocabulary=vocabulary, training_length=tokens)

    def fingerprint(self, task: str) -> str:
        return ""  # nothing is read

    def identity(self, trial: Trial) -> Json:
        """Everything that determines a time, as far as a file can say it."""
        settings = self.settings(self.config.to_json())
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
        code = {name: source for arm in self.arms for name, source in arm.code.items()}
        return {**trial.to_json(), **settings, "device": device, **conditions(), "code": code}

    def trials(self, task: str) -> list[Trial]:
        return [Trial(task=task)]

    def trial_of(self, record: Record) -> Trial:
        return Trial(task=record.task)

    def run(self, trial: Trial, job: Job) -> tuple[Record, ...]:
        if self._timer is None:
            self._timer = Timer(Settings.of(self.config), self.arms, self._stored_timings(job.study_folder))
        return tuple(timing.to_record() for timing in self._timer.group(self.groups[trial.task]))

    def _stored_timings(self, study_folder: Path) -> list[Timing]:
        """Timings of groups that an earlier call finished: the times of longer lengths follow from them."""
        contents = [
            sealed.read_or_none(Trial(task=task).folder(study_folder) / storage.RESULT)
            for task in self.groups
        ]
        records = [record for content in contents if content for record in storage.records_of(content)]
        return [Timing.of(record) for record in records]

    def work(self, trial: Trial) -> float:
        """Estimated seconds."""
        return PlannedGroup.from_json(self.planned.task(trial.task).facts).estimate_seconds

    def finish(self, study_folder: Path, records: Sequence[Record], progress: Progress) -> tuple[str, ...]:
        for arm in self.arms:
            write_events(study_folder, arm.name, [Timing.of(r) for r in records if r.arm == arm.name])
        return ()

    def judge(self, plan: Plan, records: Sequence[Record], baselines: Sequence[Baseline]) -> Judgement:
        """Ratios of interleaved pairs, and their crossovers."""
        timings, subject = [Timing.of(record) for record in records], self.config.subject
        clock = "processor" if clock_of_machine() is time.process_time else "wall"
        details = Details.of(timings, subject, clock)
        return Judgement(
            verdict=Verdict(text=verdict_text(plan, subject, details.ratios, details.crossovers)),
            warnings=tuple(warnings_of(plan, self.config.match_length, timings)),
            details=details.to_json(),
        )

    def outcome(self, records: Sequence[Record], plan: Plan) -> str:
        """'gemma3 12.3k, m2_gpt 15k tokens/s'."""
        timings = [Timing.of(record) for record in records]
        speeds = [f"{t.arm} {short(t.tokens_per_second) if t.is_measured else t.status}" for t in timings]
        return f"{', '.join(speeds)}{' tokens/s' if timings[-1].is_measured else ''}"


def write_events(study_folder: Path, arm: str, timings: Sequence[Timing]) -> None:
    """Write scalars over T, in a folder per arm so that TensorBoard overlays the arms.

    Calling it again replaces them.
    """
    writer = open_events(study_folder / "tensorboard" / arm, "throughput")
    for timing in timings:
        if timing.is_measured:
            tag = f"{timing.level}_{timing.mode}{'_compiled' if timing.compiled else ''}"
            writer.add_scalar(f"tokens_per_second/{tag}", timing.tokens_per_second, timing.tokens)
            if timing.peak_bytes is not None:
                writer.add_scalar(f"peak_mib/{tag}", timing.peak_bytes / 2**20, timing.tokens)
    writer.close()


class Throughput(Experiment):
    """Speed and memory of whole architectures against sequence length, at one parameter budget."""

    config = ThroughputConfig

    def open(self, config: ThroughputConfig) -> ThroughputStudy:
        if config.dtype == "bfloat16" and not torch.cuda.is_available():
            raise ConfigError(
                f"study {config.name!r}: dtype bfloat16 is 16 to 60 times slower on most processors; "
                "use float32, or a GPU"
            )
        return ThroughputStudy(config)

    def sections(self, study: Plan) -> Sequence[Section]:
        return sections_of(study)


EXPERIMENT = Throughput()
