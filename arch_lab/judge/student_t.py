"""Student's t distribution without scipy: tail probability and quantile.

The tail is the regularised incomplete beta function I_x(a, b), evaluated by its continued fraction (modified Lentz);
the quantile is a bisection on the tail, so the two cannot disagree.
Source: Abramowitz and Stegun 26.5.8 (continued fraction) and 26.7.1 (t through the beta function).
"""

from __future__ import annotations

import math

_TINY = 1e-300  # stands in for a zero denominator in Lentz's recursion


def incomplete_beta(a: float, b: float, x: float, complement: float) -> float:
    """I_x(a, b) for a, b > 0. ``complement`` is 1 - x, passed in because subtracting would lose the small tails."""
    if x <= 0:
        return 0.0
    if complement <= 0:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast only left of the mean
        return 1.0 - incomplete_beta(b, a, complement, x)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(complement)
    )
    return math.exp(log_front) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    c = 1.0
    d = 1.0 / (1.0 - (a + b) * x / (a + 1) or _TINY)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for coefficient in (even, odd):
            d = 1.0 / (1.0 + coefficient * d or _TINY)
            c = 1.0 + coefficient / c or _TINY
            value *= d * c
        if abs(d * c - 1.0) < 1e-16:
            break
    return value


def two_sided(t: float, freedom: float) -> float:
    """P(|T| >= |t|) for ``freedom`` > 0 degrees of freedom: the p-value of a two-sided test."""
    if math.isinf(t):
        return 0.0
    square = t * t
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + square), square / (freedom + square))


def quantile(probability: float, freedom: float) -> float:
    """The t with P(T <= t) = ``probability``, 0 < probability < 1."""
    if not 0 < probability < 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability}")
    tail = 2 * min(probability, 1 - probability)  # both tails together
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > tail:
        low, high = high, high * 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if two_sided(middle, freedom) > tail else (low, middle)
    return math.copysign((low + high) / 2, probability - 0.5)
