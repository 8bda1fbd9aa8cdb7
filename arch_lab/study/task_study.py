"""Studies over several tasks: arms x tasks x learning rates x seeds, one short fit each.

A study of language models trains every arm once at one budget (arch_lab.study.training_study). Here the arms
exist already, or are small, and the question is what they are worth on tasks. An experiment reads its data
and fits one trial, whose scores are of a split that no choice has looked at.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, ClassVar

from arch_lab import files
from arch_lab.data.paths import data_root
from arch_lab.fields import LearningRates, Name, PathText, Seeds
from arch_lab.judge.measures import Task
from arch_lab.judge.records import DIVERGED, FINISHED, Record, is_finite
from arch_lab.stored import Facts, Json, to_plain
from arch_lab.study.code_identity import conditions, texts, trial_code
from arch_lab.study.config import TunedStudyConfig
from arch_lab.study.events import METRICS
from arch_lab.study.loggers import LoggerConfig
from arch_lab.study.open_study import OpenStudy, Progress
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.trial import Job, Trial
from blocks.config import Doc, Length, Unique

Curve = tuple[tuple[int, str, float], ...]  # (step, tag, value), steps in rising order


@dataclass(frozen=True, kw_only=True)
class TaskStudyConfig(TunedStudyConfig):
    """Keys of every study over tasks; an experiment adds its own in a subclass.

    ``root``: where relative data paths begin (``--data-root``). ``CHOOSES``: keys that say which trials
    there are and determine the numbers of none; a subclass adds its own, such as ``arms``.
    """

    CHOOSES: ClassVar[tuple[str, ...]] = (
        "name",
        "description",
        "tasks",
        "seeds",
        "tuning_seeds",
        "learning_rates",
        "widen",
        "root",
        "loggers",
    )

    tasks: Annotated[list[Name], Length(1, 1000), Unique(), Doc("The tasks to score.")]
    root: Annotated[
        PathText | None,
        Doc("Folder that relative data paths start from; null: ARCH_LAB_DATA, else the current one."),
    ] = None
    learning_rates: Annotated[
        LearningRates,
        Doc("Learning rates to fit every method at; the best one on held-out training rows is reported."),
    ]
    seeds: Annotated[Seeds, Doc("Seeds of every fit; a verdict needs at least three.")]
    tuning_seeds: Annotated[
        Seeds | None,
        Doc("Seeds fitted at every rate; the others run at the chosen rate only. null: all seeds."),
    ] = None
    loggers: Annotated[
        list[LoggerConfig],
        Length(0, 20),
        Doc("Loggers of each fit beside its TensorBoard events; they may be changed at any time."),
    ] = field(default_factory=list)

    @classmethod
    def with_data_root(cls, content: Json, root: str) -> Json:
        """The content of a study file with ``--data-root`` applied."""
        return {**content, "root": root}

    @property
    def folder(self) -> Path:
        """Where relative data paths begin: ``root``, else ARCH_LAB_DATA, else the current folder."""
        return data_root(self.root, "--data-root")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What one fit is worth.

    ``scores``: every measure of the task on the reported split, which no choice has looked at; None where the
    fit diverged. ``tuned``: the first measure on rows held out of the training split; None where nothing was
    tuned. ``facts``: stored with the result, such as steps; ``seconds`` is the duration of the fit.
    """

    scores: dict[str, float] | None
    tuned: float | None = None
    facts: Facts = field(default_factory=dict)
    curve: Curve = ()


class TaskStudy(OpenStudy):
    """Base of studies over tasks.

    ``read`` sets ``tasks``, ``absent`` (task -> why it cannot be scored) and ``arms``.
    """

    noun = "fits"
    config: TaskStudyConfig
    tasks: tuple[Task, ...]
    absent: dict[str, str]
    arms: tuple[PlannedArm, ...]

    def __init__(self, config: TaskStudyConfig) -> None:
        super().__init__(config)
        self._is_read = False

    @abstractmethod
    def read(self, progress: Progress) -> None:
        """Read and check everything that the configuration names. Called once in each process.

        Equal budgets are checked here, where arms are architectures. Raises: UserError, before any fit.
        """

    @abstractmethod
    def fit(self, trial: Trial, job: Job) -> Fitted:
        """Fit and score one trial, a function of the trial alone. Raises: UserError."""

    def plan(self, progress: Progress) -> Plan:
        self._read_once(progress)
        config = self.config
        return Plan(
            study=config.name,
            experiment=config.experiment,
            description=config.description,
            tasks=self.tasks,
            absent=self.absent,
            arms=self.arms,
            learning_rates=tuple(sorted(config.learning_rates)),
            seeds=tuple(config.seeds),
            tuning_seeds=tuple(config.grid_seeds),
            widen=config.widen,
            trials=sum(self._trial_count(arm, task) for task in self.tasks for arm in self.arms),
        )

    def settings(self, config: Json) -> Json:
        choices = self.config.CHOOSES
        return {"settings": {key: value for key, value in config.items() if key not in choices}}

    def prepare(self, plan: Plan, cache: Path, progress: Progress) -> None:
        self._read_once(progress)

    def identity(self, trial: Trial) -> Json:
        code = {**self.shared_code, **self.arm(trial.arm).code}
        settings, data = self.settings(self.config.to_json()), self.fingerprint(trial.task)
        return {**trial.to_json(), **settings, "data": data, "code": code, **conditions()}

    def run(self, trial: Trial, job: Job) -> Record:
        with job.log(hyperparameters(trial)) as log:
            fitted = self.fit(trial, job)
            record = record_of(trial, fitted)
            write_curve(job.folder / METRICS, fitted.curve)  # from which the log is made
            log.close(record.scores or None)
        return record

    def arm(self, name: str) -> PlannedArm:
        return next(arm for arm in self.arms if arm.name == name)

    def _read_once(self, progress: Progress) -> None:
        if not self._is_read:
            self.read(progress)
            self._is_read = True

    def _trial_count(self, arm: PlannedArm, task: Task) -> int:
        """Trials of an arm on a task, before the grid grows."""
        config = self.config
        if not arm.applies_to(task.name):
            return 0
        if not arm.tuned:
            return len(config.seeds) if arm.seeded else 1
        return len(config.learning_rates) * len(config.grid_seeds) + len(config.other_seeds)

    @cached_property
    def shared_code(self) -> dict[str, str]:
        """The files that trials of every arm use."""
        return trial_code([self, self.config], names=texts(self.config.to_identity()))


def hyperparameters(trial: Trial) -> Json:
    """The columns of a trial in TensorBoard's table; an arm without a learning rate has no such column."""
    return {key: value for key, value in trial.to_json().items() if value is not None}


def record_of(trial: Trial, fitted: Fitted) -> Record:
    """The record of a fit: one whose score is not a finite number has diverged, and has no scores."""
    scores = fitted.scores or {}
    values = [*scores.values(), *([] if fitted.tuned is None else [fitted.tuned])]
    is_finished = fitted.scores is not None and all(map(is_finite, values))
    return Record(
        **trial.to_json(),
        status=FINISHED if is_finished else DIVERGED,
        tuned=fitted.tuned if is_finished else None,
        scores=scores if is_finished else {},
        seconds=fitted.facts.get("seconds"),
        facts=to_plain(fitted.facts),
    )


def points(curve: Curve) -> Iterator[tuple[int, dict[str, float]]]:
    """The finite values of a curve, step by step: tag -> value."""
    for step, rows in groupby(curve, key=lambda row: row[0]):
        values = {tag: value for _, tag, value in rows if is_finite(value)}
        if values:
            yield step, values


def write_curve(path: Path, curve: Curve) -> None:
    """One JSON object per step. Without a curve no file is left, also none of an earlier attempt."""
    lines = [
        json.dumps({"step": step, **{column(tag): value for tag, value in values.items()}})
        for step, values in points(curve)
    ]
    if lines:
        files.write_text(path, "\n".join(lines) + "\n")
    else:
        path.unlink(missing_ok=True)


def column(tag: str) -> str:
    """The key of a tag in a line of a curve: train_loss, tune_<measure>; others keep their slash."""
    return tag.replace("/", "_", 1) if tag == "train/loss" or tag.startswith("tune/") else tag
