"""Forecasts: losses and signs of differences at budgets that nothing was trained at yet, and what came of them.

A forecast is written and sealed before anything trains there; a later study names it, and its report sets outcome
beside forecast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from arch_lab.judge.frontier import Band, Frontier
from arch_lab.stored import Stored

VERSION = 1
TARGET = 0.015  # relative error within which an outcome counts as met, beside its band
SAME_BUDGET = 0.01  # relative distance of two budgets that are the same


@dataclass(frozen=True, kw_only=True)
class Expected(Stored):
    """What the law of an arm says at a budget. ``tied``: whether the arms share E."""

    arm: str
    flops: float
    tied: bool
    loss: Band
    size: Band


@dataclass(frozen=True, kw_only=True)
class ExpectedDifference(Stored):
    """Loss of ``a`` minus loss of ``b`` at a budget; ``share``: resamples in which ``a`` has the lower loss."""

    a: str
    b: str
    flops: float
    tied: bool
    difference: Band
    share: float


@dataclass(frozen=True, kw_only=True)
class Forecast(Stored):
    """Losses and differences at larger budgets. ``trained_to``: the largest budget the laws have seen.

    ``source``: the study; ``identity``: of its results; ``created``: UTC.
    """

    version: int = VERSION
    source: str
    identity: str
    measure: str
    created: str
    trained_to: float
    expected: tuple[Expected, ...]
    differences: tuple[ExpectedDifference, ...]

    @property
    def budgets(self) -> list[float]:
        return sorted({one.flops for one in self.expected})

    def at(self, arm: str, flops: float, *, tied: bool) -> Expected | None:
        near = (e for e in self.expected if (e.arm, e.tied) == (arm, tied) and _same(e.flops, flops))
        return next(near, None)


@dataclass(frozen=True, kw_only=True)
class Outcome(Stored):
    """An arm at a budget: what was forecast, and what was measured. ``error``: relative, outcome over forecast."""

    arm: str
    flops: float
    tied: bool
    forecast: Band
    measured: float
    error: float
    inside: bool

    @property
    def is_met(self) -> bool:
        """Whether the outcome lies in the band and within ``TARGET``."""
        return self.inside and abs(self.error) <= TARGET


@dataclass(frozen=True, kw_only=True)
class SignOutcome(Stored):
    """A pair at a budget: the arm that was forecast to have the lower loss, and the one that has it."""

    a: str
    b: str
    flops: float
    tied: bool
    expected: str
    share: float
    measured: str | None  # None: not distinguishable


@dataclass(frozen=True, kw_only=True)
class Outcomes(Stored):
    """All of a forecast that a study put to the test. ``checksum``: of the forecast's content."""

    source: str
    created: str
    checksum: str
    arms: tuple[Outcome, ...]
    signs: tuple[SignOutcome, ...]


def expected(
    frontiers: Mapping[bool, Frontier], flops: Sequence[float]
) -> tuple[tuple[Expected, ...], tuple[ExpectedDifference, ...]]:
    """What the laws say at budgets. ``frontiers``: tied -> laws."""
    losses = tuple(
        Expected(arm=arm, flops=c, tied=tied, loss=frontier.loss(arm, c), size=frontier.size(arm, c))
        for tied, frontier in frontiers.items()
        for arm in frontier.laws
        for c in flops
    )
    differences = tuple(
        ExpectedDifference(
            a=a,
            b=b,
            flops=c,
            tied=tied,
            difference=frontier.difference(a, b, c),
            share=frontier.share(a, b, c),
        )
        for tied, frontier in frontiers.items()
        for b, a in combinations(frontier.laws, 2)
        for c in flops
    )
    return losses, differences


def outcomes(
    forecast: Forecast,
    checksum: str,
    measured: Mapping[tuple[str, float], float],
    better: Mapping[tuple[str, str, float], str | None],
) -> Outcomes:
    """Forecast against outcome.

    Args:
        forecast: what was written down before.
        checksum: of its content.
        measured: (arm, FLOPs of the budget) -> score.
        better: (a, b, FLOPs) -> the better arm of a pair, None where it is not distinguishable.
    """
    arms, signs = [], []
    for one in forecast.expected:
        for (arm, flops), score in measured.items():
            if arm == one.arm and _same(flops, one.flops) and one.loss.estimate:
                low, high = one.loss.low, one.loss.high
                arms.append(
                    Outcome(
                        arm=arm,
                        flops=flops,
                        tied=one.tied,
                        forecast=one.loss,
                        measured=score,
                        error=score / one.loss.estimate - 1,
                        inside=(low is None or low <= score) and (high is None or score <= high),
                    )
                )
    for pair in forecast.differences:
        for (a, b, flops), winner in better.items():
            if {a, b} == {pair.a, pair.b} and _same(flops, pair.flops):
                signs.append(
                    SignOutcome(
                        a=pair.a,
                        b=pair.b,
                        flops=flops,
                        tied=pair.tied,
                        expected=pair.a if (pair.difference.estimate or 0.0) < 0 else pair.b,
                        share=max(pair.share, 1 - pair.share),
                        measured=winner,
                    )
                )
    return Outcomes(
        source=forecast.source,
        created=forecast.created,
        checksum=checksum,
        arms=tuple(arms),
        signs=tuple(signs),
    )


def _same(a: float, b: float) -> bool:
    return abs(a / b - 1) <= SAME_BUDGET
