"""What the engine asks of one study: its plan, its data, its certificates, its trials and its verdict.

The engine calls ``plan``, ``prepare``, ``calibrate``, ``certify``, ``run`` (for every trial, in any process), ``finish``,
``baselines`` and ``judge``, in this order. A worker process opens the study again and calls ``prepare`` and ``run`` only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from arch_lab.judge.judge import judge
from arch_lab.judge.records import FINISHED, Baseline, Judgement, Record
from arch_lab.stored import Facts, Json
from arch_lab.study.config import StudyConfig
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.trial import Job, Trial
from arch_lab.units import budget_words

Progress = Callable[[str], None]  # gets one line at a time


class Certificate(Protocol):
    """What stands between a built model and its first score."""

    @property
    def passed(self) -> bool: ...

    @property
    def reason(self) -> str: ...

    def to_dict(self) -> Json: ...


class OpenStudy(ABC):
    """One study of an experiment. ``in_processes``: whether its trials may run in several processes at a time."""

    in_processes: ClassVar[bool] = True
    noun: ClassVar[str] = "runs"  # what trials are called in messages
    planned: Plan  # set by the engine as soon as there is a plan

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def unknown(self) -> tuple[str, ...]:
        """Keys of an identity that are not known yet, such as those of data that are not read."""
        return ()

    @abstractmethod
    def plan(self, progress: Progress) -> Plan:
        """What will be done. May read data, where the plan depends on them. Raises: UserError."""

    def settings(self, config: Json) -> Json:
        """Options that every number depends on, of a plain configuration: this study's or the one of stored trials.

        The engine compares the two before any data are read.
        """
        return {}

    def prepare(self, plan: Plan, cache: Path, progress: Progress) -> None:  # noqa: B027
        """Read and check the data. Called once in each process. Raises: UserError."""

    def calibrate(self, plan: Plan, previous: Plan | None, progress: Progress) -> Plan:
        """The plan with what has to be measured on this machine. ``previous``: the plan of an earlier call."""
        return plan

    def certificate_identity(self, arm: PlannedArm) -> Json:
        """What a stored certificate of an arm belongs to; empty where nothing is certified."""
        return {}

    def certify(self, arm: PlannedArm) -> Certificate:
        """Certificate of the built model of an arm. Called where ``certificate_identity`` is not empty."""
        raise NotImplementedError(f"{type(self).__name__} names certificates and does not define certify")

    @abstractmethod
    def fingerprint(self, task: str) -> str:
        """Hash of all data that determine a score on a task."""

    @abstractmethod
    def identity(self, trial: Trial) -> Json:
        """Everything that determines the numbers of a trial: the keys task, arm, learning_rate, seed, code, and more."""

    def trials(self, task: str) -> list[Trial] | None:
        """All trials of a task where there is nothing to choose; None: every arm at every learning rate."""
        return None

    def trial_of(self, record: Record) -> Trial:
        """The trial that gave a record."""
        return Trial.of(record)

    @abstractmethod
    def run(self, trial: Trial, job: Job) -> Record | Sequence[Record]:
        """Run one trial, a function of the trial alone; a record of each arm that it measures.

        Raises: UserError; KeyboardInterrupt, after saving what a resumed trial needs.
        """

    def work(self, trial: Trial) -> float:
        """Rough size of a trial, in units that trials of one study share: FLOPs, seconds, or 1 each."""
        return 1.0

    def finish(self, study_folder: Path, records: Sequence[Record], progress: Progress) -> tuple[str, ...]:
        """Called once when all trials have ended; returns lines for the report, such as files that were written."""
        return ()

    def baselines(self) -> tuple[Baseline, ...]:
        """Trivial models that are scored, not trained; worst first."""
        return ()

    def judge(self, plan: Plan, records: Sequence[Record], baselines: Sequence[Baseline]) -> Judgement:
        """Choices, standings, pairs and verdict."""
        return judge(
            records,
            plan.tasks,
            plan.arms,
            baselines,
            budget=budget_words(plan.budget) + (", each arm at its best size" if plan.sizes else ""),
            matched=plan.matched,
            absent=plan.absent,
        )

    def data_summary(self) -> Facts:
        """The data in a few plain values, for the report."""
        return {}

    def outcome(self, records: Sequence[Record], plan: Plan) -> str:
        """What a finished trial gave, in words: one line of the terminal."""
        record = records[0]
        if record.status != FINISHED:
            return record.status
        measure = plan.task(record.task).primary
        return f"{record.scores[measure.key]:.4f} {measure.name}"


class Experiment(ABC):
    """One question: which studies it has, and how it opens one. ``config``: the keys of its studies."""

    config: type[StudyConfig]

    @abstractmethod
    def open(self, config: Any) -> OpenStudy:
        """The study of a configuration. Reads no data. Raises: ConfigError."""

    def sections(self, study: Any) -> Sequence[Any]:
        """Further sections of the report of a Study (arch_lab.report.section.Section), in reading order."""
        return ()
