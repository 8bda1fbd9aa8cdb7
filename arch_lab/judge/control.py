"""A/A controls: each arm against its twin, the same model trained from other seeds.

A twin must come out not distinguishable. Where it does not, the test finds differences that are none, and a
difference between arms of that size means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arch_lab.judge.judge import Contender
from arch_lab.judge.measures import Task
from arch_lab.judge.pairs import compare_pairs
from arch_lab.judge.power import detectable_effect, pooled_deviation
from arch_lab.judge.records import Pair, Record
from arch_lab.judge.selection import select
from arch_lab.judge.standings import by_seed
from arch_lab.stored import Stored


@dataclass(frozen=True, kw_only=True)
class Noise(Stored):
    """Standard deviation of a difference between twins, and the study whose control measured it."""

    deviation: float
    measure: str
    source: str

    def detectable(self, seeds: int) -> float | None:
        """Smallest true difference that so many paired seeds find with a power of 80 %."""
        return detectable_effect(self.deviation, seeds)


def twin_of(arm: str) -> str:
    return f"{arm} (twin)"


def control_pairs(
    records: Sequence[Record], tasks: Sequence[Task], arms: Sequence[Contender], twins: Mapping[int, int]
) -> list[Pair]:
    """Twin minus arm, for every arm of every task; each pair is a test of its own. ``twins``: seed of a twin -> of its arm.

    The two of a pair share their place in the list of seeds, not their data: seeds are what the control varies.
    """
    pairs: list[Pair] = []
    for task in tasks if twins else ():
        of_task = [r for r in records if r.task == task.name]
        main = [r for r in of_task if r.seed not in twins]
        names = [arm.name for arm in arms if arm.applies_to(task.name) and not arm.baseline]
        for name, choice in select(main, names, task.primary).items():
            own = by_seed(main, name, choice, task.primary.key)
            other = by_seed([r for r in of_task if r.seed in twins], name, choice, task.primary.key)
            moved = {twins[seed]: score for seed, score in other.items()}
            pairs += compare_pairs({name: own, twin_of(name): moved}, task.primary, task=task.name)
    return pairs


def control_warnings(pairs: Sequence[Pair]) -> list[str]:
    """A line for each twin that can be told from its arm."""
    return [
        f"A/A control: {pair.text}; they differ in their seeds only, so differences of this size between arms mean nothing"
        for pair in pairs
        if pair.distinguishable
    ]


def noise_of(pairs: Sequence[Pair], source: str) -> Noise | None:
    """Noise that a study's controls measured; None without any. Of several tasks the first counts."""
    first = [pair for pair in pairs if pair.task == pairs[0].task]
    deviation = pooled_deviation(first)
    return None if deviation is None else Noise(deviation=deviation, measure=first[0].measure, source=source)
