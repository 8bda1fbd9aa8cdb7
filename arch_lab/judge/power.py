"""Power of a paired comparison, and the smallest effect that it can find.

Legend: n seeds, sd of the paired differences. The test is Student's t over n differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from arch_lab.judge import student_t
from arch_lab.judge.intervals import LEVEL
from arch_lab.judge.records import Pair

POWER = 0.8


def power(effect: float, deviation: float, seeds: int, *, level: float = LEVEL) -> float:
    """Chance that a two-sided test over ``seeds`` differences of mean ``effect`` finds it, on either side.

    ``deviation``: standard deviation of a difference. By the noncentral t distribution.
    """
    from scipy.special import nctdtr

    freedom, shift = seeds - 1, effect / (deviation / math.sqrt(seeds))
    critical = student_t.quantile((1 + level) / 2, freedom)
    other_side = nctdtr(freedom, abs(shift), -critical)  # not computed where it is below 1e-8
    return float(1 - nctdtr(freedom, abs(shift), critical) + (0 if math.isnan(other_side) else other_side))


def detectable_effect(
    deviation: float, seeds: int, *, chance: float = POWER, level: float = LEVEL
) -> float | None:
    """Smallest true difference that is found with ``chance``; None for fewer than two seeds."""
    from scipy.optimize import brentq

    if seeds < 2:
        return None
    if deviation == 0:
        return 0.0
    high = deviation / math.sqrt(seeds)
    while power(high, deviation, seeds, level=level) < chance:
        high *= 2
    return float(brentq(lambda effect: power(effect, deviation, seeds, level=level) - chance, 0, high))


def pooled_deviation(pairs: Sequence[Pair]) -> float | None:
    """Standard deviation of a paired difference, from pairs whose true difference is zero; None without any.

    The mean of squares around zero, which a difference of the means of two twins would be hidden by otherwise.
    """
    squares = [d**2 for pair in pairs for d in pair.differences]
    return math.sqrt(sum(squares) / len(squares)) if squares else None
