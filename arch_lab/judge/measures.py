"""Measures and tasks: what a study scores, and in which direction a score is better."""

from __future__ import annotations

from dataclasses import dataclass, field

from arch_lab.stored import Facts, Stored


@dataclass(frozen=True, kw_only=True)
class Measure(Stored):
    """One number of a trial. ``key`` in files, ``name`` in sentences and tables, ``short`` where a column is narrow.

    ``logarithmic``: an exponential of a loss, so means and intervals are taken on its logarithm. ``meaning``: what it is, for the
    glossary of a report.
    """

    key: str
    name: str
    short: str = ""
    logarithmic: bool = False
    higher_is_better: bool = False
    meaning: str = ""

    @property
    def tuned(self) -> str:
        """Key of the same number on the tune split, where a record of a curve holds one."""
        return f"tune_{self.key}"

    @property
    def label(self) -> str:
        """Head of a column where there is room."""
        return f"{self.name} (higher is better)" if self.higher_is_better else self.name

    @property
    def head(self) -> str:
        """Head of a narrow column."""
        return self.short or self.name

    @property
    def arrow(self) -> str:
        """Name with the direction that is better."""
        return f"{self.name} {'↑' if self.higher_is_better else '↓'}"


@dataclass(frozen=True, kw_only=True)
class Task(Stored):
    """One data set with its question. The only task of a study has the name "".

    The first of ``measures`` is what hyper-parameters are chosen by and what a verdict is about. ``counted``: keys of the measures
    whose mean is the task's number in an average over tasks; empty where no average is meant. ``facts``: shown, such as the number of
    rows of each split.
    """

    name: str = ""
    measures: tuple[Measure, ...]
    counted: tuple[str, ...] = ()
    facts: Facts = field(default_factory=dict)

    @property
    def primary(self) -> Measure:
        return self.measures[0]
