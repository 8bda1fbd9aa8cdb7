"""The gate: no comparison is written whose arms are not matched.

Two rules. Every arm lies within the tolerance of the budget on every axis given; and any two arms lie within
the tolerance of each other on each, because two arms at opposite edges of a 1 % band are 2 % apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from arch_lab.accounting.ledger import Component
from arch_lab.budget.budget import Budget, BudgetError
from arch_lab.stored import Facts, Stored

# what to turn when an arm misses an axis: a shape decides the first two, the number of steps the others
ADVICE = {
    "params": "let the solver choose the shape",
    "flops_per_token": "let the solver choose the shape",
    "train_flops": "raise budget.train_flops or lower training.batch_size, so that whole steps come closer to it",
    "tokens": "raise budget.tokens or lower training.batch_size, so that whole steps come closer to it",
    "seconds": "raise budget.seconds, so that whole steps come closer to it",
}


@dataclass(frozen=True, kw_only=True)
class Miss(Stored):
    """An axis on which an arm misses the budget or another arm; ``text`` names the largest component."""

    arm: str
    axis: str
    deviation: float
    text: str


class Counted(Protocol):
    """An arm of a plan, as the gate sees it."""

    @property
    def name(self) -> str: ...
    @property
    def deviation(self) -> Mapping[str, float]: ...
    @property
    def components(self) -> Sequence[Component]: ...


def deviations(
    budget: Facts,
    *,
    parameters: Mapping[str, int],
    spent: Mapping[str, float | None],
    seconds: float | None = None,
) -> dict[str, float]:
    """Signed relative distance of an arm from each axis of ``budget`` (JSON form).

    ``parameters``: embedding, head, body, total. ``spent``: axis -> its value for FLOPs and tokens. ``seconds``: of a whole run.
    """
    distances: dict[str, float] = {}
    for axis in ("params", "flops_per_token", "train_flops", "tokens", "seconds"):
        target = budget.get(axis)
        if target is None:
            continue
        if axis == "params":
            kind = budget.get("match_on", "body+head")
            value: float | None = (
                parameters["body"] + parameters["head"] if kind == "body+head" else parameters[kind]
            )
        else:
            value = seconds if axis == "seconds" else spent[axis]
        assert value is not None
        distances[axis] = value / target - 1
    return distances


def check(arms: Sequence[Counted], budget: Budget) -> list[Miss]:
    """Every miss of a plan's arms, worst first."""
    misses: list[Miss] = []
    for arm in arms:
        for axis, deviation in arm.deviation.items():
            if abs(deviation) > budget.tolerance:
                misses.append(
                    Miss(
                        arm=arm.name,
                        axis=axis,
                        deviation=deviation,
                        text=_blame(arm, axis, deviation, "the budget"),
                    )
                )
    for i, a in enumerate(arms):
        for b in arms[i + 1 :]:
            for axis in a.deviation:
                difference = (1 + b.deviation[axis]) / (1 + a.deviation[axis]) - 1
                if abs(difference) > budget.tolerance:
                    misses.append(
                        Miss(
                            arm=b.name,
                            axis=axis,
                            deviation=difference,
                            text=_blame(b, axis, difference, f"arm {a.name!r}"),
                        )
                    )
    return sorted(misses, key=lambda m: -abs(m.deviation))


def refuse(arms: Sequence[Counted], budget: Budget) -> None:
    """Raises: BudgetError naming the worst miss and how many others there are."""
    misses = check(arms, budget)
    if misses:
        more = f" (and {len(misses) - 1} more)" if len(misses) > 1 else ""
        advice = ADVICE.get(misses[0].axis, ADVICE["params"])
        raise BudgetError(
            f"refused: {misses[0].text}{more}; tolerance {budget.tolerance:.1%}. To fix it, {advice}; "
            "or set budget.allow_unmatched: true, and the report will show a banner"
        )


def _blame(arm: Counted, axis: str, deviation: float, against: str) -> str:
    key = "parameters" if axis == "params" else "flops_per_token"
    candidates = [c for c in arm.components if axis != "params" or not c.name.startswith("embedding")]
    largest = max(candidates, key=lambda c: getattr(c, key))
    total = sum(getattr(c, key) for c in arm.components)
    share = f"{largest.name} ({getattr(largest, key) / total:.0%} of the {key})"
    return f"arm {arm.name!r} is {deviation:+.2%} off {against} on {axis}; its largest part is {share}"
