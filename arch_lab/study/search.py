"""Search over several hyper-parameters: the same draws for every arm, with centres that fall or rise with size.

A value at a size N is ``value · (N / reference_size)^size_exponent``; sizes are `n_eff`, training FLOPs per token / 6.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeVar

from arch_lab.judge.selection import rounded
from arch_lab.stored import Stored
from arch_lab.training.optimizer import GroupRule, OptimizerConfig
from blocks.config import Bounds, Config, Doc, Length
from blocks.errors import ConfigError, did_you_mean

T = TypeVar("T", bound=OptimizerConfig)
LEARNING_RATE = "learning_rate"
OPTIONS = (
    "weight_decay",
    "beta1",
    "beta2",
    "clip_norm",
    "final_fraction",
)  # of training, that can be searched
OF_GROUPS = ("rate", "weight_decay")  # of a group of parameters: <group>.rate
SEED = 0  # of the Sobol sequence: every study of one space draws the same


@dataclass(frozen=True, kw_only=True)
class Dimension(Config):
    """Range of one hyper-parameter around a centre."""

    center: Annotated[float, Bounds(minimum=0, maximum=1e6), Doc("Middle of the range, at reference_size.")]
    span: Annotated[
        float,
        Bounds(above=0, maximum=1e12),
        Doc(
            "Width of the range: largest / smallest value on a log scale, largest − smallest on a linear one."
        ),
    ]
    scale: Annotated[Literal["log", "linear"], Doc("How values spread over the range.")] = "log"
    points: Annotated[int, Bounds(minimum=1, maximum=100), Doc("Values of a grid, evenly spread.")] = 3
    size_exponent: Annotated[
        float, Bounds(minimum=-2, maximum=2), Doc("Power of the size that multiplies every value.")
    ] = 0.0

    def __post_init__(self) -> None:
        if self.scale == "log" and (self.center <= 0 or self.span < 1):
            raise ConfigError("search.space: a log scale needs a center above 0 and a span of 1 or more")

    def at(self, place: float) -> float:
        """The value at a place in the range, from 0 to 1."""
        off = place - 0.5
        return rounded(self.center * self.span**off if self.scale == "log" else self.center + self.span * off)


@dataclass(frozen=True, kw_only=True)
class Search(Config):
    """What is searched, how, and what carries over to the next budget."""

    method: Annotated[
        Literal["grid", "sobol"],
        Doc("A grid of every combination of points, or draws of a Sobol sequence."),
    ] = "grid"
    draws: Annotated[int | None, Bounds(minimum=1, maximum=10_000), Doc("Number of draws of sobol.")] = None
    space: Annotated[
        dict[str, Dimension],
        Length(1, 20),
        Doc("Ranges: learning_rate, and any of weight_decay, beta1, beta2, clip_norm, <group>.rate."),
    ]
    reference_size: Annotated[
        float, Bounds(above=0, maximum=1e15), Doc("Size (n_eff) at which the values are as written.")
    ] = 1e5
    keep: Annotated[
        int | None,
        Bounds(minimum=1, maximum=10_000),
        Doc(
            "How many settings of each arm, its best at one budget, go on to the next larger one; null: all."
        ),
    ] = None

    def __post_init__(self) -> None:
        for name in self.space:
            if name != LEARNING_RATE and name not in OPTIONS and not _of_group(name):
                valid = (LEARNING_RATE, *OPTIONS, "<group>.rate", "<group>.weight_decay")
                raise ConfigError(
                    f"search.space: unknown hyper-parameter {name!r}; valid: {', '.join(valid)}"
                    f"{did_you_mean(name, valid)}"
                )
        if LEARNING_RATE not in self.space:
            raise ConfigError("search.space: learning_rate is missing; add its center and span")
        if (self.draws is None) == (self.method == "sobol"):
            wanted = "needs draws, their number" if self.method == "sobol" else "takes points, not draws"
            raise ConfigError(f"search: method {self.method} {wanted}")

    @property
    def is_ladder(self) -> bool:
        """Whether learning rates alone are searched, on a grid: such a grid can grow at its edges."""
        return self.method == "grid" and list(self.space) == [LEARNING_RATE]

    @property
    def learning_rates(self) -> list[float]:
        """Of a ladder, at the reference size, ascending."""
        one = self.space[LEARNING_RATE]
        return sorted({one.at(place) for place in _places(one)}) if self.is_ladder else []

    def grid(self) -> Grid:
        exponents = {name: d.size_exponent for name, d in self.space.items() if d.size_exponent}
        return Grid(
            draws=() if self.is_ladder else tuple(self._draws()),
            exponents=exponents,
            reference_size=self.reference_size,
            keep=self.keep,
        )

    def _draws(self) -> Iterator[Draw]:
        if self.method == "grid":
            places: Sequence[Sequence[float]] = list(
                itertools.product(*(_places(d) for d in self.space.values()))
            )
        else:
            assert self.draws is not None
            places = _sobol(len(self.space), self.draws)
        for index, row in enumerate(places):
            values = {name: d.at(u) for (name, d), u in zip(self.space.items(), row, strict=True)}
            yield Draw(index=index, values=values)


@dataclass(frozen=True, kw_only=True)
class Draw(Stored):
    """One setting of all hyper-parameters that are searched, at the reference size."""

    index: int
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Grid(Stored):
    """What the trials of a study are chosen among besides learning rates.

    ``sizes``: task -> nominal sizes. ``draws``: empty where learning rates are all there is to search. ``exponents``:
    hyper-parameter -> power of the size. ``keep``: settings of each arm that go on to the next larger budget.
    """

    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    draws: tuple[Draw, ...] = ()
    exponents: dict[str, float] = field(default_factory=dict)
    reference_size: float = 1e5
    keep: int | None = None

    def at(self, name: str, value: float, size: float | None) -> float:
        """A hyper-parameter of a model of this size."""
        exponent = self.exponents.get(name, 0.0)
        if not exponent or size is None:
            return value
        return rounded(value * (size / self.reference_size) ** exponent)

    def values(self, draw: int, size: float | None) -> dict[str, float]:
        """All hyper-parameters of a draw at a size."""
        return {name: self.at(name, value, size) for name, value in self.draws[draw].values.items()}


def with_values(training: T, values: Mapping[str, float]) -> T:
    """The options of training (study.config.Training) with the hyper-parameters of a draw, but for its learning rate."""
    options = {name: value for name, value in values.items() if name in OPTIONS}
    rules: list[GroupRule] = list(training.groups)  # type: ignore[attr-defined]
    for name, value in values.items():
        if not _of_group(name):
            continue
        group, _, option = name.rpartition(".")
        known = next((i for i, rule in enumerate(rules) if rule.name == group), None)
        if known is None:
            rules.append(GroupRule.from_options({"name": group, option: value}, where="search.space"))
        else:
            rules[known] = replace(rules[known], **{option: value})  # type: ignore[arg-type]
    return replace(training, **options, groups=rules)  # type: ignore[arg-type, call-arg]


def _of_group(name: str) -> bool:
    group, _, option = name.rpartition(".")
    return bool(group) and option in OF_GROUPS


def _places(dimension: Dimension) -> list[float]:
    if dimension.points == 1:
        return [0.5]
    return [i / (dimension.points - 1) for i in range(dimension.points)]


def _sobol(dimensions: int, draws: int) -> list[list[float]]:
    """The first ``draws`` points of a scrambled Sobol sequence: more draws keep those before."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(dimensions, scramble=True, seed=SEED)
    points = sequence.random_base2(math.ceil(math.log2(draws)) if draws > 1 else 0)
    return [[float(u) for u in row] for row in points[:draws]]
