"""The gate: no comparison is written whose arms are not matched.

Two rules. Every arm lies within the tolerance of the budget on every axis given; and any two arms lie within
the tolerance of each other on each, because two arms at opposite edges of a 1 % band are 2 % apart. What it
reads of an arm are the counts of the plan's JSON form; ``recheck`` applies it to a stored study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arch_lab.budget.budget import Budget, BudgetError

# what to turn when an arm misses an axis: a shape decides the first two, the number of steps the others
ADVICE = {
    "params": "let the solver choose the shape",
    "flops_per_token": "let the solver choose the shape",
    "train_flops": "raise budget.train_flops or lower training.batch_size, so that whole steps come closer to it",
    "tokens": "raise budget.tokens or lower training.batch_size, so that whole steps come closer to it",
    "seconds": "raise budget.seconds, so that whole steps come closer to it",
}


@dataclass(frozen=True, kw_only=True)
class Miss:
    """An axis on which an arm misses the budget or another arm; ``text`` names the largest component."""

    arm: str
    axis: str
    deviation: float
    text: str


def check(arms: Sequence[dict[str, Any]], budget: Budget) -> list[Miss]:
    """Every miss of a plan's arms (dicts of the plan's JSON form), worst first."""
    misses: list[Miss] = []
    for arm in arms:
        for axis, deviation in arm["deviation"].items():
            if abs(deviation) > budget.tolerance:
                misses.append(
                    Miss(
                        arm=arm["name"],
                        axis=axis,
                        deviation=deviation,
                        text=_blame(arm, axis, deviation, "the budget"),
                    )
                )
    for i, a in enumerate(arms):
        for b in arms[i + 1 :]:
            for axis in a["deviation"]:
                difference = (1 + b["deviation"][axis]) / (1 + a["deviation"][axis]) - 1
                if abs(difference) > budget.tolerance:
                    misses.append(
                        Miss(
                            arm=b["name"],
                            axis=axis,
                            deviation=difference,
                            text=_blame(b, axis, difference, f"arm {a['name']!r}"),
                        )
                    )
    return sorted(misses, key=lambda m: -abs(m.deviation))


def refuse(arms: Sequence[dict[str, Any]], budget: Budget) -> None:
    """Raises: BudgetError naming the worst miss and how many others there are."""
    misses = check(arms, budget)
    if misses:
        more = f" (and {len(misses) - 1} more)" if len(misses) > 1 else ""
        advice = ADVICE.get(misses[0].axis, ADVICE["params"])
        raise BudgetError(
            f"refused: {misses[0].text}{more}; tolerance {budget.tolerance:.1%}. To fix it, {advice}; "
            "or set budget.allow_unmatched: true, and the report will show a banner"
        )


def _blame(arm: dict[str, Any], axis: str, deviation: float, against: str) -> str:
    key = "parameters" if axis == "params" else "flops_per_token"
    largest = max(
        (c for c in arm["components"] if axis != "params" or not c["name"].startswith("embedding")),
        key=lambda c: c[key],
    )
    total = sum(c[key] for c in arm["components"])
    share = f"{largest['name']} ({largest[key] / total:.0%} of the {key})"
    return f"arm {arm['name']!r} is {deviation:+.2%} off {against} on {axis}; its largest part is {share}"
