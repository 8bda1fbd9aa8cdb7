"""What the trials of one task are chosen among: learning rates or draws, at one size or several.

It grows at the edges that an arm selected, for all arms alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from arch_lab.judge.records import Choice
from arch_lab.judge.selection import wider
from arch_lab.study.plan import Plan
from arch_lab.study.search import LEARNING_RATE

Setting = float  # a learning rate at the reference size, or the index of a draw


class Choices:
    """Sizes and settings of a task. ``rates`` (at the reference size) and ``sizes`` ascend."""

    def __init__(self, plan: Plan, task: str) -> None:
        self.grid, self.task = plan.grid, task
        self.rates = [] if plan.grid.draws else sorted(plan.learning_rates)
        self.sizes: list[int | None] = list(plan.grid.sizes.get(task, ())) or [None]
        self.kept: dict[str, list[Setting]] = {}  # arm -> settings that go on from the budget before
        buildable = [
            {m.size for m in models if m.applies_to(task)} for models in plan.sizes.values()
        ]  # a size that an arm cannot have is added for none
        self._buildable: set[int | None] = set.intersection(*buildable) if buildable else set()

    @property
    def settings(self) -> list[Setting]:
        return [draw.index for draw in self.grid.draws] or list(self.rates)

    def of(self, arm: str) -> list[Choice]:
        """All choices of an arm."""
        return list(self._product(self.sizes, self.kept.get(arm, self.settings)))

    def setting(self, choice: Choice) -> Setting:
        """The draw of a choice, or its learning rate at the reference size."""
        if choice.draw is not None:
            return choice.draw
        return next(rate for rate in self.rates if self._choice(choice.size, rate) == choice)

    def widen(self, selected: Mapping[str, Choice]) -> dict[str, list[Choice]]:
        """Arm -> choices that are new, after one more rate and size at each edge that an arm selected."""
        chosen = list(selected.values())
        rates = wider(self.rates, [self.setting(choice) for choice in chosen]) if self.rates else []
        sizes = self._more_sizes([choice.size for choice in chosen])
        new = {
            arm: [
                *self._product(sizes, [*self.kept.get(arm, self.settings), *rates]),
                *self._product(self.sizes, rates),
            ]
            for arm in selected
        }
        self.rates, self.sizes = sorted([*self.rates, *rates]), _ascending([*self.sizes, *sizes])
        for settings in self.kept.values():
            settings += rates
        return new if rates or sizes else {}

    def _more_sizes(self, chosen: Iterable[int | None]) -> list[int | None]:
        sizes = [float(size) for size in self.sizes if size is not None]
        if len(sizes) < 2:
            return []
        more = wider(sizes, [float(size) for size in chosen if size is not None])
        return [int(size) for size in more if int(size) in self._buildable]

    def _product(self, sizes: Iterable[int | None], settings: Sequence[Setting]) -> Iterator[Choice]:
        return (self._choice(size, setting) for size, setting in product(sizes, settings))

    def _choice(self, size: int | None, setting: Setting) -> Choice:
        if not self.grid.draws:
            return Choice(learning_rate=self.grid.at(LEARNING_RATE, setting, size), size=size)
        rate = self.grid.values(int(setting), size)[LEARNING_RATE]
        return Choice(learning_rate=rate, size=size, draw=int(setting))


def _ascending(sizes: Iterable[int | None]) -> list[int | None]:
    return sorted(sizes, key=lambda size: size or 0)
