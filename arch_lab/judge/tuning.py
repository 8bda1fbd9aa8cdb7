"""Tuning curves: the best score of k trials against k, for the settings that a study drew.

Legend: n settings tried, y their scores on the tune split, ascending where lower is better.
Source: Dodge et al. (arXiv 1909.03004) for the curve, here without its bias; simultaneous bands as in Lourie et al.
(arXiv 2311.09480), from the Dvoretzky-Kiefer-Wolfowitz band of the distribution of scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from arch_lab.judge.intervals import LEVEL
from arch_lab.stored import Stored

FALLING = 0.005  # relative gain of the last doubling of trials from which an arm is called under-tuned


@dataclass(frozen=True, kw_only=True)
class TuningCurve(Stored):
    """Expected best score of k trials, k = 1 … n, and a simultaneous band of its median; None where it is unbounded.

    ``sensitivity``: mean over the settings of their distance from the best one; ``lost``: settings that diverged.
    """

    best: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    sensitivity: float
    lost: int

    @property
    def is_falling(self) -> bool:
        """Whether twice the trials still gained more than ``FALLING``: the arm is under-tuned."""
        n = len(self.best)
        if n < 2:
            return True
        before = self.best[math.ceil(n / 2) - 1]
        return abs(before - self.best[-1]) > FALLING * abs(self.best[-1])


def tuning_curve(
    scores: Sequence[float | None], *, higher_is_better: bool = False, level: float = LEVEL
) -> TuningCurve | None:
    """The curve of settings drawn at random; ``scores``: None where one diverged, which is worse than any other.

    None where none finished.
    """
    sign = -1.0 if higher_is_better else 1.0
    good = sorted(sign * score for score in scores if score is not None)
    if not good:
        return None
    n, lost = len(scores), len(scores) - len(good)
    y = [*good, *[good[-1]] * lost]  # at least as bad as the worst that finished
    best = [sign * _expected_best(y, k) for k in range(1, n + 1)]
    width = math.sqrt(math.log(2 / (1 - level)) / (2 * n))
    targets = [
        1 - 0.5 ** (1 / k) for k in range(1, n + 1)
    ]  # share of settings at or below the median of the best
    low = [_quantile(y, target - width) for target in targets]
    high = [_quantile(y, target + width) for target in targets]
    if higher_is_better:
        low, high = [_turned(v) for v in high], [_turned(v) for v in low]
    return TuningCurve(
        best=tuple(best),
        low=tuple(low),
        high=tuple(high),
        sensitivity=sum(y) / n - y[0],
        lost=lost,
    )


def _expected_best(y: Sequence[float], k: int) -> float:
    """Mean of the least of k settings out of n without replacement: an unbiased estimate for k new ones."""
    n = len(y)
    return sum(math.comb(n - i, k - 1) * y[i - 1] for i in range(1, n - k + 2)) / math.comb(n, k)


def _quantile(y: Sequence[float], share: float) -> float | None:
    """The score that a share of the settings is at or below; None where the share is not within 0 and 1."""
    if share <= 0 or share > 1:
        return None
    return y[min(len(y), math.ceil(share * len(y) - 1e-9)) - 1]


def _turned(value: float | None) -> float | None:
    return None if value is None else -value
