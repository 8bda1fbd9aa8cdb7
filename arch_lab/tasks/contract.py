"""What a study over several tasks is made of: methods x tasks x learning rates x seeds, one fit each, scores on two splits.

The other studies train every arm once at one budget (arch_lab.study.engine). Here the arms exist already, or are small, and the
question is what they are worth on tasks: GLUE, triplets, retrieval. An experiment reads its data and fits one cell; choosing a
learning rate, intervals, paired differences, averages, files, the page and the terminal are the engine's (``TaskEngine``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

from arch_lab.data.paths import data_root
from arch_lab.fields import (
    ExperimentName,
    LearningRates,
    Name,
    PathText,
    Seeds,
    Text,
    Widen,
    tuning_seeds_problem,
)
from arch_lab.judge.measures import Measure
from arch_lab.study.loggers import LoggerConfig, entries
from blocks.config import Config, Doc, Length, Unique
from blocks.errors import ConfigError

T = TypeVar("T", bound="TaskStudyConfig")
Tell = Callable[[str], None]  # one line of progress


@dataclass(frozen=True, kw_only=True)
class TaskStudyConfig(Config):
    """What every such study says; an experiment adds its own keys in a subclass.

    ``learning_rates``, ``seeds`` and ``tuning_seeds`` as in StudyConfig: every method that has a rate gets the same grid, each
    tuning seed at each rate, the other seeds at the chosen rate only; ``widen``: how often the grid of a task may grow, for all
    methods, when an optimum sits on its edge. ``root``: where relative data paths begin (``--data-root``).
    ``CHOOSES``: keys that say which cells there are and determine the numbers of none; a subclass adds its own, such as ``arms``.
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

    name: Annotated[Name, Doc("Name of the study and of its folder; default: the name of the file.")]
    description: Annotated[Text, Doc("The question in one line, shown in lists and reports.")] = ""
    experiment: Annotated[ExperimentName, Doc("What is learned and scored, and on what kind of data.")]
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
    widen: Annotated[
        Widen, Doc("How many times the grid of rates may grow when the best rate is at its edge.")
    ] = 0
    loggers: Annotated[
        list[LoggerConfig],
        Length(0, 20),
        Doc("Loggers of each fit beside its TensorBoard events; they may be changed at any time."),
    ] = field(default_factory=list)

    def __post_init__(self) -> None:
        problem = tuning_seeds_problem(self.tuning_seeds, self.seeds)
        if problem:
            raise ConfigError(f"study {self.name!r}: {problem}")

    @classmethod
    def from_options(cls: type[T], options: dict[str, Any], *, where: str = "") -> T:
        """As for every config; a bare class path may stand for a logger."""
        if "loggers" in options:
            options = {**options, "loggers": entries(options["loggers"])}
        return super().from_options(options, where=where)  # type: ignore[misc]

    @property
    def folder(self) -> Path:
        """Where relative data paths begin: ``root``, else the variable ARCH_LAB_DATA, else the current folder."""
        return data_root(self.root, "--data-root")

    @property
    def grid_seeds(self) -> list[int]:
        return self.seeds if self.tuning_seeds is None else self.tuning_seeds


@dataclass(frozen=True, kw_only=True)
class Task:
    """One set with its question. The first of ``measures`` is what a verdict is about and what a learning rate is chosen by.

    ``counted``: the measures whose mean is the task's one number in an average over tasks (GLUE takes the mean of the two where a
    task has two); empty where no average is meant. ``facts`` is shown: rows of each split, and what the scores are of.
    """

    name: str
    measures: tuple[Measure, ...]
    counted: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the tables.

    ``tuned``: whether it has a learning rate; without one each seed is one fit. ``seeded``: False where chance plays no part, so that
    one fit says all. ``baseline``: shown beside the others, with no place in the verdict. ``tasks``: where it applies, None everywhere.
    ``code``: the files of its network (arch_lab.study.code_identity), beside those that the experiment itself uses.
    ``facts``: parameters and whatever else a reader must know to call the comparison fair; shown.
    """

    name: str
    tuned: bool = True
    seeded: bool = True
    baseline: bool = False
    tasks: tuple[str, ...] | None = None
    code: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fit. ``learning_rate`` None: the method has none."""

    task: str
    method: str
    learning_rate: float | None
    seed: int

    @property
    def label(self) -> str:
        rate = "" if self.learning_rate is None else f" lr {self.learning_rate:g}"
        return f"{self.task}: {self.method}{rate} seed {self.seed}"

    def folder(self, study: Path) -> Path:
        rate = "" if self.learning_rate is None else f"lr-{self.learning_rate:g}_"
        return study / "runs" / self.task / self.method / f"{rate}seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What one fit is worth. ``tuned``: the first measure on rows held out of the training split; None where nothing was tuned.

    ``scores``: every measure of the task on the reported split, which no choice has looked at. ``curve``: (step, tag, value) rows
    for TensorBoard. A fit that diverged has ``scores`` None.
    """

    scores: dict[str, float] | None
    tuned: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # kept in the result: seconds, steps, confusions
    curve: tuple[tuple[int, str, float], ...] = ()


class Prepared(Protocol):
    """Data and methods of one study, read and checked."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those that can be scored, in the study's order."""

    @property
    def absent(self) -> dict[str, str]:
        """Task -> why it is not: a missing or truncated file, in one line."""

    @property
    def methods(self) -> tuple[Method, ...]: ...

    def fingerprint(self, task: str) -> str:
        """Of everything beside configuration and code that determines a score on this task: its files, pretrained weights."""

    def fit(self, cell: Cell, folder: Path, tell: Tell) -> Fitted:
        """Fit and score one cell, a function of the cell alone. ``folder`` exists and is the cell's: files of its own may go there.

        Raises: UserError.
        """

    def finish(self, chosen: dict[tuple[str, str], list[Path]], folder: Path, tell: Tell) -> list[str]:
        """Called once when all is fitted; ``chosen``: (task, method) -> folders of its cells at the chosen rate, in the order of seeds.

        Returns lines for the report (files written, such as GLUE's submissions).
        """


class TaskExperiment(Protocol):
    """What ``experiments/<name>/experiment.py`` hands to ``TaskEngine``."""

    config: type[TaskStudyConfig]

    def open(self, config: Any, cache: Path, tell: Tell) -> Prepared:
        """Read and check everything that the study (of type ``config``) names. Raises: UserError, one line, before anything is fitted.

        Equal budgets are checked here, where the methods are architectures: arms that are not matched are refused.
        """
