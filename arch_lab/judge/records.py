"""Typed results of a study and what the judge makes of them: records in; choices, standings, pairs and a verdict out.

A record is one trial, or one arm of a trial that measures several together. A standing is one arm on one task at its chosen
learning rate. A pair compares two arms on one task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from arch_lab.stored import Facts, Stored
from arch_lab.units import counted

FINISHED, DIVERGED = "finished", "diverged"


@dataclass(frozen=True, kw_only=True)
class Machine(Stored):
    """Where a trial ran. ``device``: "cpu", or the name of the GPU."""

    cpu: str
    cores: int | None = None
    device: str = "cpu"
    threads: int = 1
    torch: str = ""

    @property
    def name(self) -> str:
        """The machine in words."""
        processor = self.cpu if self.device == "cpu" else self.device
        cores = f", {self.cores} cores" if self.cores else ""
        return f"{processor}{cores}, {counted(self.threads, 'thread')}"


@dataclass(frozen=True, kw_only=True)
class Choice(Stored):
    """What the tune split chooses among for an arm on a task.

    ``learning_rate`` is None for an arm without one, ``size`` (nominal `n_eff`) where a study has no sizes, ``draw`` (index
    of a draw of its search) where learning rates are all there is to search.
    """

    learning_rate: float | None = None
    size: int | None = None
    draw: int | None = None

    @property
    def order(self) -> tuple[float, float, float]:
        """Ties go to the choice that comes first: the smaller rate, then the smaller size."""
        return self.learning_rate or 0.0, self.size or 0, self.draw or 0


@dataclass(frozen=True, kw_only=True)
class Record(Stored):
    """Result of one trial.

    ``task`` is empty in a study of one task; for ``learning_rate``, ``size`` and ``draw`` see Choice. ``status``: finished,
    diverged, or why there are no scores, with ``reason`` in words. ``tuned``: the first measure on the tune split. ``scores``:
    measure key -> value on the held-out split, empty where there is none. ``flops``: of the whole path from step 0;
    ``reused_flops``: those of them that an earlier trial spent, whose state this one went on from. ``facts``: what only the
    experiment understands, shown as it is.
    """

    task: str = ""
    arm: str
    learning_rate: float | None = None
    size: int | None = None
    draw: int | None = None
    seed: int = 0
    status: str = FINISHED
    reason: str = ""
    tuned: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    steps: int | None = None
    tokens: int | None = None
    flops: int | float | None = None
    reused_flops: int | float | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    facts: Facts = field(default_factory=dict)
    machine: Machine | None = None

    @property
    def choice(self) -> Choice:
        return Choice(learning_rate=self.learning_rate, size=self.size, draw=self.draw)

    def score(self, key: str) -> float | None:
        """Value of a measure; None where the trial diverged or the value is not a finite number."""
        value = self.scores.get(key)
        return value if self.status == FINISHED and is_finite(value) else None

    @property
    def tuning_score(self) -> float | None:
        """Value that a learning rate is chosen by; None where the trial diverged."""
        return self.tuned if self.status == FINISHED and is_finite(self.tuned) else None


@dataclass(frozen=True, kw_only=True)
class Interval(Stored):
    """Mean of ``n`` values with its confidence interval; without at least two values there is no interval."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    n: int


@dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """Mean of the paired differences a - b. ``p_value`` is None where the seeds cannot support a test."""

    differences: tuple[float, ...] = ()
    p_value: float | None = None
    distinguishable: bool = False


@dataclass(frozen=True, kw_only=True)
class Standing(Stored):
    """One arm on one task at its chosen learning rate, size and draw.

    ``scores`` and ``medians``: by measure key. ``beats``: baselines that lie outside the whole interval of the first measure, on
    the worse side (of one seed: on the worse side of its value). Speed is a mean and memory a maximum over seeds; neither exists
    over trials of different machines.
    """

    task: str = ""
    arm: str
    baseline: bool = False
    learning_rate: float | None = None
    size: int | None = None
    draw: int | None = None
    scores: dict[str, Interval] = field(default_factory=dict)
    medians: dict[str, float | None] = field(default_factory=dict)
    beats: tuple[str, ...] = ()
    diverged_seeds: tuple[int, ...] = ()
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    seconds: float | None = None

    @property
    def choice(self) -> Choice:
        return Choice(learning_rate=self.learning_rate, size=self.size, draw=self.draw)


@dataclass(frozen=True, kw_only=True)
class Pair(Stored):
    """Two arms on one task: paired differences ``a`` - ``b`` over seeds, tested with Holm's correction over the task's pairs.

    ``low`` and ``high`` bound the plain interval; ``distinguishable`` and ``better`` follow the corrected p-value. ``measure`` is the
    name of the first measure of the task; of an average over tasks, ``task`` is "average". ``lead``: what may be said of the better
    one (arch_lab.judge.regime.claim).
    """

    task: str = ""
    a: str
    b: str
    measure: str
    difference: float | None
    low: float | None
    high: float | None
    n: int
    differences: tuple[float, ...]
    p_value: float | None
    p_adjusted: float | None
    distinguishable: bool
    better: str | None
    lead: str = "is better"
    text: str

    @property
    def worse(self) -> str | None:
        """The other arm, where one is better."""
        return None if self.better is None else self.b if self.better == self.a else self.a


@dataclass(frozen=True, kw_only=True)
class Average(Interval):
    """Mean over tasks of one arm, with its interval over seeds."""

    arm: str
    baseline: bool = False
    median: float | None = None


@dataclass(frozen=True, kw_only=True)
class Baseline(Stored):
    """A trivial model that is not trained: measure key -> score on the held-out split of the study's one task."""

    name: str
    scores: dict[str, float] = field(default_factory=dict)


LIMITS = "This study does not say how its arms compare at another budget, on other data, or with more tuning."
LIMITS_OF_SIZES = (
    "This study does not say how its arms compare on other data, with more tuning, or at larger budgets: orders found at one "
    "small scale were right at a larger one in about 80 % of published cases (arXiv 2504.11393)."
)


@dataclass(frozen=True, kw_only=True)
class Verdict(Stored):
    """The quotable answer of a study, in words; where the difference lies; and what the study cannot say."""

    text: str
    where: str = ""
    limits: str = LIMITS

    @property
    def lines(self) -> list[str]:
        return [line for line in (self.text, self.where, self.limits) if line]


@dataclass(frozen=True, kw_only=True)
class Judgement(Stored):
    """What the judge makes of the records of a study.

    ``details``: what only the experiment's own judge knows, such as crossovers of speed.
    """

    summary: tuple[Standing, ...] = ()
    pairs: tuple[Pair, ...] = ()
    averages: tuple[Average, ...] = ()
    verdict: Verdict
    warnings: tuple[str, ...] = ()
    details: Facts = field(default_factory=dict)


def machine_names(records: Sequence[Record]) -> list[str]:
    """Name of the machine of each record that has one."""
    return [record.machine.name for record in records if record.machine is not None]


def is_finite(value: Any) -> bool:
    """Whether ``value`` is a number, and neither infinite nor NaN."""
    return isinstance(value, (int, float)) and math.isfinite(value)
