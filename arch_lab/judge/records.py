"""Typed results of a study and what the judge makes of them: records in; choices, standings, pairs and a verdict out.

A record is one trial. A standing is one arm on one task at its chosen learning rate. A pair compares two arms on one task.
``to_json`` gives plain values that JSON can hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from arch_lab.judge.measures import Measure
from arch_lab.units import counted

FINISHED, DIVERGED = "finished", "diverged"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Result of one trial.

    ``task`` is empty in a study of one task; ``learning_rate`` is None for an arm without one. ``tuned``: the first measure on
    the tune split. ``scores``: measure key -> value on the held-out split, empty where the trial diverged.
    """

    task: str = ""
    arm: str
    learning_rate: float | None
    seed: int
    status: str
    tuned: float | None
    scores: Mapping[str, float]
    tokens_per_second: float | None = None
    peak_memory_bytes: float | None = None
    seconds: float | None = None
    machine: str = ""  # where it ran, in words

    def score(self, key: str) -> float | None:
        """Value of a measure; None where the trial diverged or the value is not a finite number."""
        value = self.scores.get(key)
        return float(value) if self.status == FINISHED and is_finite(value) else None  # type: ignore[arg-type]

    def tuning_score(self, primary: Measure) -> float | None:
        """Value that a learning rate is chosen by; None where the trial diverged."""
        return float(self.tuned) if self.score(primary.key) is not None and is_finite(self.tuned) else None  # type: ignore[arg-type]

    @classmethod
    def of_run(cls, row: Mapping[str, Any], measures: tuple[Measure, ...]) -> Record:
        """A row of ``results`` in a study.json, where scores are flat keys."""
        return cls(
            arm=row["arm"],
            learning_rate=row["learning_rate"],
            seed=row["seed"],
            status=row.get("status", DIVERGED),
            tuned=row.get(measures[0].tuned),
            scores={m.key: row[m.key] for m in measures if is_finite(row.get(m.key))},
            tokens_per_second=row.get("tokens_per_second"),
            peak_memory_bytes=row.get("peak_memory_bytes"),
            seconds=row.get("seconds"),
            machine=machine_name(row["machine"]) if row.get("machine") else "",
        )

    @classmethod
    def of_fit(cls, row: Mapping[str, Any]) -> Record:
        """A row of ``rows`` in the study.json of a study over tasks."""
        same = {name: row[name] for name in ("task", "learning_rate", "seed", "status", "tuned", "scores")}
        machine = machine_name(row["machine"]) if row.get("machine") else ""
        return cls(**same, arm=row["method"], seconds=row["facts"].get("seconds"), machine=machine)


@dataclass(frozen=True)
class Interval:
    """Mean of ``n`` values with its confidence interval; without at least two values there is no interval."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference(Interval):
    """Mean of the paired differences a - b. ``p_value`` is None where the seeds cannot support a test."""

    differences: tuple[float, ...] = ()
    p_value: float | None = None
    distinguishable: bool = False


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One arm on one task at its chosen learning rate.

    ``scores`` and ``medians``: by measure key. ``beats``: baselines that lie outside the whole interval of the first measure, on
    the worse side (of one seed: on the worse side of its value). Speed is a mean and memory a maximum over seeds; neither exists
    over trials of different machines.
    """

    task: str
    arm: str
    baseline: bool
    learning_rate: float | None
    scores: dict[str, Interval]
    medians: dict[str, float | None]
    beats: tuple[str, ...] = ()
    diverged_seeds: tuple[int, ...] = ()
    tokens_per_second: float | None = None
    peak_memory_bytes: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two arms on one task: paired differences ``a`` - ``b`` over seeds, tested with Holm's correction over the task's pairs.

    ``low`` and ``high`` bound the plain interval; ``distinguishable`` and ``better`` follow the corrected p-value.
    """

    task: str
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
    text: str

    @property
    def worse(self) -> str | None:
        """The other arm, where one is better."""
        return None if self.better is None else self.b if self.better == self.a else self.a

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "differences": list(self.differences)}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The quotable answer, and the pairs it rests on."""

    text: str
    pairs: tuple[Pair, ...] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "pairs": [pair.to_json() for pair in self.pairs]}


def machine_name(machine: Mapping[str, Any]) -> str:
    """A machine, as a record stores it, in words."""
    processor = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    cores = f", {machine['cores']} cores" if machine.get("cores") else ""
    return f"{processor}{cores}, {counted(machine['threads'], 'thread')}"


def is_finite(value: Any) -> bool:
    """Whether ``value`` is a number, and neither infinite nor NaN."""
    return isinstance(value, (int, float)) and math.isfinite(value)
