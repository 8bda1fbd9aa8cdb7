"""Arms at equal FLOPs, tokens and seconds, by their curves on the tune split; arms against the baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from arch_lab import units
from arch_lab.judge.intervals import paired_difference
from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.records import Difference, machine_names
from arch_lab.report.curves import Curve, seed_curves, tuned_key
from arch_lab.report.section import Cell, Section, Table, Value
from arch_lab.study.study import Study

AXES: dict[str, Callable[[float], str]] = {
    "flops": lambda value: units.short(value, "FLOP"),
    "tokens": lambda value: f"{units.short(value)} tokens",
    "seconds": units.duration,
}
NAMES = {"flops": "equal training FLOPs", "tokens": "equal tokens", "seconds": "equal seconds"}
PAIRS = 6  # more of them: every arm against the best one only
Curves = Mapping[int, Curve]  # by seed


@dataclass(frozen=True)
class Meeting:
    """Two arms at the largest amount of an axis that every curve of both reaches.

    Difference ``a`` - ``b`` over paired seeds.
    """

    a: str
    b: str
    axis: str
    amount: float
    difference: Difference

    def text(self, measure: Measure) -> str:
        """One sentence."""
        head = f"At {NAMES[self.axis]} ({AXES[self.axis](self.amount)})"
        gap = f"{self.a} − {self.b} = {_bounds(self.difference)} tune {measure.name}"
        better = self.better(measure)
        if better is None:
            return f"{head}, {self.a} and {self.b} are not distinguishable ({gap})."
        return f"{head}, {better} is ahead of {self.b if better == self.a else self.a} ({gap})."

    def better(self, measure: Measure) -> str | None:
        """The arm that is ahead; None where the seeds do not tell."""
        if not self.difference.distinguishable or not self.difference.mean:
            return None
        return self.a if (self.difference.mean > 0) == measure.higher_is_better else self.b


def meeting(a: str, b: str, axis: str, curves: Mapping[str, Curves]) -> Meeting | None:
    """None where the curves do not advance along the axis, or do not overlap."""
    both = [curve for arm in (a, b) for curve in curves[arm].values()]
    if not both or any(axis not in curve.axes for curve in both):
        return None
    amount = min(float(curve.x[axis][-1]) for curve in both)
    of_a, of_b = ({seed: curve.at(axis, amount) for seed, curve in curves[arm].items()} for arm in (a, b))
    difference = paired_difference(of_a, of_b)
    return None if difference.mean is None else Meeting(a, b, axis, amount, difference)


def equal_cost(folder: Path, study: Study) -> Section | None:
    """Every task whose arms left curves; None where none did."""
    tables, lines = [], list[str]()
    for task in study.tasks:
        meetings = _meetings(folder, study, task)
        if meetings:
            tables.append(_table(task, meetings))
            lines += [m.text(task.primary) for m in meetings] if len(meetings) <= len(AXES) else []
    lines += against_baselines(study)
    if not tables and not lines:
        return None
    note = (
        "Differences of the curves on the tune split at the largest budget that both arms reach, paired by"
        " seed, with 95 % intervals that are not corrected for the number of comparisons. An arm that is "
        "still training there has a higher learning rate than at its end. The verdict above is about the "
        "held-out split at the end of training."
    )
    text = (note,) if tables else ()
    return Section(
        title="At equal cost", anchor="equal-cost", text=text, tables=tables, lines=lines, page_only=True
    )


def _meetings(folder: Path, study: Study, task: Task) -> list[Meeting]:
    key = tuned_key(task.primary)
    arms = [arm.name for arm in study.arms_of(task.name) if not arm.baseline]
    curves = {arm: curves for arm in arms if (curves := seed_curves(folder, study, arm, task.name, key))}
    timed = [record for arm in curves for record in study.records(arm=arm, task=task.name, reported=True)]
    axes = [axis for axis in AXES if axis != "seconds" or len(set(machine_names(timed))) < 2]
    pairs = list(combinations(curves, 2))
    if len(pairs) > PAIRS:
        best = _best(curves, task.primary)
        pairs = [(best, arm) for arm in curves if arm != best]
    candidates = [meeting(b, a, axis, curves) for a, b in pairs for axis in axes]
    return [m for m in candidates if m is not None]


def _best(curves: Mapping[str, Curves], measure: Measure) -> str:
    def final(arm: str) -> float:
        ends = [float(curve.middle[-1]) for curve in curves[arm].values()]
        return sum(ends) / len(ends)

    return (max if measure.higher_is_better else min)(curves, key=final)


def _table(task: Task, meetings: Sequence[Meeting]) -> Table:
    rows: dict[tuple[str, str], dict[str, Meeting]] = {}
    for m in meetings:
        rows.setdefault((m.a, m.b), {})[m.axis] = m
    axes = [axis for axis in AXES if any(m.axis == axis for m in meetings)]
    cells = [
        [f"{a} − {b}", *(_cell(at.get(axis), task.primary) for axis in axes)] for (a, b), at in rows.items()
    ]
    title = (
        f"{task.name}: tune {task.primary.name}" if task.name else f"difference in tune {task.primary.name}"
    )
    direction = "above" if task.primary.higher_is_better else "below"
    note = f"mean [95 % interval] at the budget in brackets; {direction} 0 the first named is ahead"
    return Table(
        title=title, headers=["difference of", *(NAMES[axis] for axis in axes)], rows=cells, note=note
    )


def _cell(m: Meeting | None, measure: Measure) -> Value:
    if m is None:
        return None
    kind = "strong" if m.better(measure) else ""
    return Cell(f"{_bounds(m.difference)} (at {AXES[m.axis](m.amount)})", kind, value=m.difference.mean)


def _bounds(d: Difference) -> str:
    if d.mean is None or d.low is None or d.high is None:
        return units.DASH if d.mean is None else f"{d.mean:+.4f}"
    places = units.decimals(units.half_width(d))
    return f"{d.mean:+.{places}f} [{d.low:.{places}f}, {d.high:.{places}f}]"


def against_baselines(study: Study) -> list[str]:
    """What the arms of a study of one task are ahead of: a sentence for all that beat the same."""
    names = [baseline.name for baseline in study.baselines]
    groups: dict[tuple[str, ...], list[str]] = {}
    for standing in study.summary if names else ():
        groups.setdefault(tuple(name for name in names if name in standing.beats), []).append(standing.arm)
    return [_beaten_line(arms, beaten, names) for beaten, arms in groups.items()]


def _beaten_line(arms: Sequence[str], beaten: Sequence[str], names: Sequence[str]) -> str:
    not_beaten = [name for name in names if name not in beaten]
    clauses = [f"ahead of {units.words(beaten)}"] if beaten else []
    clauses += [f"not ahead of {units.words(not_beaten)}"] if not_beaten else []
    verb = "is" if len(arms) == 1 else "are"
    return f"Against the baselines, {units.words(arms)} {verb} {' and '.join(clauses)}."
