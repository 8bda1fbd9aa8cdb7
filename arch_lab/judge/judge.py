"""The judge of a study: choices on the tune split, standings and paired differences on the held-out split, a verdict in words.

The judge of a study of speed is its experiment's own (arch_lab.judge.crossover).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from arch_lab.judge.intervals import mean_interval
from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.pairs import compare_pairs
from arch_lab.judge.records import (
    FINISHED,
    Average,
    Baseline,
    Choice,
    Judgement,
    Pair,
    Record,
    Standing,
    Verdict,
)
from arch_lab.judge.regime import claim
from arch_lab.judge.selection import edge_warnings, select
from arch_lab.judge.standings import by_seed, standing, with_beaten
from arch_lab.judge.verdict import verdict_of_one, verdict_over_tasks
from arch_lab.units import rate, words

AVERAGE = "average"  # the task of a pair that compares means over tasks
Choices = Mapping[str, Choice]  # arm -> its choice
Values = dict[str, dict[int, float | None]]  # arm -> seed -> score


class Contender(Protocol):
    """An arm of a plan, as the judge sees it (arch_lab.study.plan.PlannedArm)."""

    @property
    def name(self) -> str: ...
    @property
    def seeded(self) -> bool: ...
    @property
    def baseline(self) -> bool: ...
    def applies_to(self, task: str) -> bool: ...


def judge(
    records: Sequence[Record],
    tasks: Sequence[Task],
    arms: Sequence[Contender],
    baselines: Sequence[Baseline] = (),
    *,
    budget: str = "the same budget",
    matched: bool = True,
    absent: Mapping[str, str] | None = None,
) -> Judgement:
    """Standings, pairs, averages over tasks, warnings and the verdict.

    ``baselines``: of a study of one task. ``budget``: what is equal, in words. ``absent``: task -> why it is not scored.
    """
    summary: list[Standing] = []
    pairs: list[Pair] = []
    warnings: list[str] = []
    for task in tasks:
        of_task = [r for r in records if r.task == task.name]
        entrants = [arm for arm in arms if arm.applies_to(task.name)]
        selected = select(of_task, [arm.name for arm in entrants], task.primary)
        standings = _standings(of_task, task, entrants, selected, baselines)
        summary += standings
        lead = claim(standings, baselines)
        values = _values(of_task, [arm.name for arm in entrants if not arm.baseline], selected, task.primary)
        pairs += compare_pairs(values, task.primary, task=task.name, lead=lead)
        warnings += edge_warnings(of_task, selected, task.primary)
    if any(task.name for task in tasks):
        averages, average_pairs = _averages(records, tasks, arms)
        pairs += average_pairs
        text = verdict_over_tasks(pairs, _questions(tasks, absent or {}))
        lines = [f"{name} is left out: {reason}" for name, reason in (absent or {}).items()]
        warnings = [*lines, *warnings, *_lost(records)]
    else:
        averages = []
        text = verdict_of_one(
            values,
            pairs,
            records,
            tasks[0].primary,
            budget=budget,
            matched=matched,
            lead=lead,
        )
    return Judgement(
        summary=tuple(summary),
        pairs=tuple(pairs),
        averages=tuple(averages),
        verdict=Verdict(text=text),
        warnings=tuple(warnings),
    )


def _values(records: Sequence[Record], arms: Sequence[str], selected: Choices, measure: Measure) -> Values:
    return {arm: by_seed(records, arm, selected.get(arm, Choice()), measure.key) for arm in arms}


def _standings(
    records: Sequence[Record],
    task: Task,
    arms: Sequence[Contender],
    selected: Choices,
    baselines: Sequence[Baseline],
) -> list[Standing]:
    """Every arm of a task, with the baselines that it beats."""
    standings = [
        standing(
            records,
            arm.name,
            selected.get(arm.name, Choice()),
            task.measures,
            task=task.name,
            baseline=arm.baseline,
        )
        for arm in arms
    ]
    bars = {s.arm: s.scores[task.primary.key].mean for s in standings if s.baseline}
    bars |= {baseline.name: baseline.scores.get(task.primary.key) for baseline in baselines}
    return with_beaten(standings, bars, task.primary)


def _averages(
    records: Sequence[Record], tasks: Sequence[Task], arms: Sequence[Contender]
) -> tuple[list[Average], list[Pair]]:
    """Per arm the mean over tasks of each task's own mean; per seed, so that arms can be paired."""
    counted = [task for task in tasks if task.counted]
    if len(counted) < 2:
        return [], []
    averages, values = [], {}
    for arm in arms:
        if not all(arm.applies_to(task.name) for task in counted):
            continue
        means = _means_by_seed(records, arm, counted)
        finite = [value for value in means.values() if value is not None]
        interval = mean_interval(finite)
        averages.append(
            Average(
                arm=arm.name,
                baseline=arm.baseline,
                mean=interval.mean,
                low=interval.low,
                high=interval.high,
                n=interval.n,
                median=float(np.median(finite)) if finite else None,
            )
        )
        if not arm.baseline:
            values[arm.name] = means
    measure = Measure(key=AVERAGE, name=f"mean over {len(counted)} tasks", higher_is_better=True)
    return averages, compare_pairs(values, measure, task=AVERAGE)


def _means_by_seed(
    records: Sequence[Record], arm: Contender, counted: Sequence[Task]
) -> dict[int, float | None]:
    """Seed -> mean over ``counted`` tasks of the mean of the measures that each task counts."""
    tasks = []
    for task in counted:
        of_task = [r for r in records if r.task == task.name]
        choice = select(of_task, [arm.name], task.primary).get(arm.name, Choice())
        scores = [by_seed(of_task, arm.name, choice, key) for key in task.counted]
        tasks.append({seed: _mean([by_key.get(seed) for by_key in scores]) for seed in scores[0]})
    seeds = sorted(set().union(*tasks))
    if not arm.seeded:  # chance plays no part: run once, valid for every seed
        tasks = [{seed: task.get(seed, next(iter(task.values()))) for seed in seeds} for task in tasks]
    return {seed: _mean([task.get(seed) for task in tasks]) for seed in seeds}


def _mean(values: Sequence[float | None]) -> float | None:
    """None when one is missing: an average over fewer tasks is another number."""
    finite = [value for value in values if value is not None]
    return float(np.mean(finite)) if values and len(finite) == len(values) else None


def _lost(records: Sequence[Record]) -> list[str]:
    lost = [
        f"{r.task}: {r.arm} at {rate(r.learning_rate)} seed {r.seed}" for r in records if r.status != FINISHED
    ]
    return [f"diverged and left out, {len(lost)} of {len(records)} fits: {'; '.join(lost)}"] if lost else []


def _questions(tasks: Sequence[Task], absent: Mapping[str, str]) -> dict[str, str]:
    """Task -> the words its sentence of the verdict begins with; the average over tasks first."""
    counted = [task.name for task in tasks if task.counted]
    missing = f", without {words(list(absent))}" if absent else ""
    average = {AVERAGE: f"Average over {len(counted)} tasks ({', '.join(counted)}{missing})"}
    return average | {task.name: f"{task.name} ({task.primary.name})" for task in tasks}
