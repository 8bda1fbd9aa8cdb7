"""The choice of learning rate, size and draw on the tune split, and whether the grid was wide enough for it.

The held-out split is never looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Choice, Record
from arch_lab.units import rate, short

FEWEST_DRAWS = 3  # of a search, that have edges


def select(records: Sequence[Record], arms: Sequence[str], primary: Measure) -> dict[str, Choice]:
    """Arm -> the choice with the best mean of ``primary`` on the tune split, of the records of one task.

    Choices compete on the seeds that all of them have run, so one that was given more seeds later gains nothing by it.
    A choice where a seed diverged loses to every one where none did; among such choices fewer divergences win. Ties go to the
    smaller rate. An arm without results, or without learning rates, is absent.
    """
    selected = {}
    for arm in arms:
        tuned: dict[Choice, dict[int, float | None]] = {}
        for record in records:
            if record.arm == arm and record.learning_rate is not None:
                tuned.setdefault(record.choice, {})[record.seed] = record.tuning_score
        if tuned:
            selected[arm] = ranked(tuned, primary)[0]
    return selected


def ranked(tuned: Mapping[Choice, Mapping[int, float | None]], primary: Measure) -> list[Choice]:
    """Choices, the best first. ``tuned``: choice -> seed -> score on the tune split, None where it diverged."""
    common = set.intersection(*(set(by_seed) for by_seed in tuned.values()))
    sign = -1 if primary.higher_is_better else 1

    def rank(choice: Choice) -> tuple[int, float, tuple[float, ...]]:
        values = [value for seed, value in tuned[choice].items() if seed in common or not common]
        good = [value for value in values if value is not None]
        return len(values) - len(good), sign * float(np.mean(good)) if good else math.inf, choice.order

    return sorted(tuned, key=rank)


def wider(values: Sequence[float], selected: Sequence[float]) -> list[float]:
    """One more value, a factor of the grid's step away, at each edge that an arm selected. ``values`` ascend."""
    step = values[1] / values[0] if len(values) > 1 else 2.0
    more = []
    if values[0] in selected:
        more.append(rounded(values[0] / step))
    if values[-1] in selected and len(values) > 1:
        more.append(rounded(values[-1] * step))
    return more


def rounded(value: float) -> float:
    return float(f"{value:.6g}")  # folders are named by the rate: 0.0005, not 0.0005000000000000001


def edge_warnings(records: Sequence[Record], selected: Mapping[str, Choice], primary: Measure) -> list[str]:
    """One line per arm whose choice is none, or whose optimum may lie outside the grid; one task.

    An arm that finished no trial at its choice is left to the verdict.
    """
    lines = []
    for arm, choice in selected.items():
        tried = [r for r in records if r.arm == arm and r.learning_rate is not None]
        if any(r.score(primary.key) is not None for r in tried if r.choice == choice):
            task = f"{tried[0].task}: " if tried[0].task else ""
            of_size = [r for r in tried if r.size == choice.size]
            problems = [_size_problem(tried, choice), _rate_problem(of_size, choice)]
            lines += [f"{task}{arm}: {problem}" for problem in problems if problem]
    return lines


def _size_problem(records: Sequence[Record], choice: Choice) -> str:
    sizes = sorted({r.size for r in records if r.size is not None})
    if choice.size is None or len(sizes) < 2 or choice.size not in (sizes[0], sizes[-1]):
        return ""
    side, factor = ("smallest", 0.5) if choice.size == sizes[0] else ("largest", 2)
    return (
        f"its best size {short(choice.size)} is the {side} of the grid, so the optimum may lie outside; "
        f"add {short(choice.size * factor)} to budget.sizes and compare again"
    )


def _rate_problem(records: Sequence[Record], choice: Choice) -> str:
    """``records``: of one arm at the chosen size."""
    learning_rate = choice.learning_rate
    rates = sorted({r.learning_rate for r in records if r.learning_rate is not None})
    assert learning_rate is not None
    if choice.draw is not None and len(rates) < FEWEST_DRAWS:
        return ""  # the best of the budget before: they were chosen, not drawn
    if len(rates) == 1:
        return f"only one learning rate ({rate(learning_rate)}) was tried, so it is not tuned; add neighbours a factor 2 apart"
    if len({_first_tuning_score(records, other) for other in rates}) == 1:
        return f"the score is the same at every learning rate tried, so the choice of {rate(learning_rate)} is arbitrary"
    if learning_rate not in (rates[0], rates[-1]):
        return ""
    side, factor = ("smallest", 0.5) if learning_rate == rates[0] else ("largest", 2)
    found = f"its best learning rate {rate(learning_rate)} is the {side} of the grid, so the optimum may lie outside"
    if choice.draw is not None:
        return f"{found}; raise search.space.learning_rate.span and compare again"
    return f"{found}; add {rate(learning_rate * factor)} and compare again"


def _first_tuning_score(records: Sequence[Record], learning_rate: float) -> float | None:
    """Of the seed that ran first at this rate: any tuning seed would do."""
    return next(r.tuning_score for r in records if r.learning_rate == learning_rate)
