"""What fitted scaling laws say about arms: bands, equal-loss compute ratios, crossovers, optima of slices.

Legend: C training FLOPs; a slice is one budget at several sizes (IsoFLOP). The frontier of an arm is its loss at
its best size, over C. Bands come from refitting the law to resampled trunks: points of one trunk are dependent.
Source: compute ratio as "effective speed-up" in marin-community/marin (docs/reports); optima of slices and their
power law as in Porian et al. (arXiv 2406.19146).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np

from arch_lab.judge.intervals import LEVEL
from arch_lab.judge.scaling import Degenerate, Points, ScalingLaw, fit
from arch_lab.stored import Stored
from blocks.errors import ConfigError

RESAMPLES = 200
DESCRIBED = 0.9  # share of the resamples that must determine a law
REDRAWS = 20  # of a resample with too few sizes or token counts to fit

Laws = Mapping[str, ScalingLaw]
Quantity = Callable[[Laws], float]


@dataclass(frozen=True, kw_only=True)
class Band(Stored):
    """An estimate, and the quantiles of the same quantity over resamples; None is infinite: a loss that is never reached."""

    estimate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Laws of all arms fitted to the data, and to every resample of their trunks."""

    laws: Laws
    resampled: tuple[Laws, ...]

    @classmethod
    def fitted(
        cls, points: Mapping[str, Points], *, tied: bool, resamples: int = RESAMPLES, seed: int = 0
    ) -> Frontier:
        """Fit the data, then ``resamples`` draws of trunks with replacement, within each arm.

        Resamples that no law describes are left out; there must be few. Raises: ConfigError when an arm has too few points,
        points of no law, or trunks that cannot be resampled.
        """
        laws = fit(points, tied=tied)
        generator = np.random.default_rng(seed)
        resampled = []
        for _ in range(resamples):
            with suppress(Degenerate):
                resampled.append(fit(_resample(points, generator), tied=tied, starts=laws))
        if len(resampled) < DESCRIBED * resamples:
            raise Degenerate(
                f"only {len(resampled)} of {resamples} resamples determine a law; add sizes or budgets"
            )
        return cls(laws=laws, resampled=tuple(resampled))

    def loss(self, arm: str, flops: float) -> Band:
        """Loss of an arm at its best size."""
        return self._band(lambda laws: laws[arm].best_loss(flops))

    def size(self, arm: str, flops: float) -> Band:
        """Best size of an arm."""
        return self._band(lambda laws: laws[arm].best_size(flops))

    def difference(self, a: str, b: str, flops: float) -> Band:
        """Loss of ``a`` minus loss of ``b``, each at its best size."""
        return self._band(lambda laws: laws[a].best_loss(flops) - laws[b].best_loss(flops))

    def share(self, a: str, b: str, flops: float) -> float:
        """Share of the resamples in which ``a`` has the lower loss."""
        wins = [laws[a].best_loss(flops) < laws[b].best_loss(flops) for laws in self.resampled]
        return sum(wins) / len(wins)

    def compute_ratio(self, a: str, b: str, flops: float) -> Band:
        """FLOPs that ``b`` needs for the loss of ``a`` at ``flops``, as a multiple of ``flops``.

        Above 1, ``a`` is the more efficient arm; infinite where ``b`` never reaches that loss.
        """
        return self._band(lambda laws: laws[b].flops_for(laws[a].best_loss(flops)) / flops)

    def crossover(self, a: str, b: str, low: float, high: float) -> Crossover:
        """Where the frontiers of two arms cross between ``low`` and ``high`` FLOPs."""
        crossings = [crossing(laws[a], laws[b], low, high) for laws in self.resampled]
        seen = sorted(c for c in crossings if c is not None)
        spread = _quantiles(seen) if seen else (None, None)
        return Crossover(
            flops=crossing(self.laws[a], self.laws[b], low, high),
            low=spread[0],
            high=spread[1],
            share=len(seen) / len(crossings) if crossings else 0.0,
        )

    def _band(self, quantity: Quantity) -> Band:
        low, high = _quantiles([quantity(laws) for laws in self.resampled])
        return Band(estimate=_finite(quantity(self.laws)), low=_finite(low), high=_finite(high))


@dataclass(frozen=True, kw_only=True)
class Crossover(Stored):
    """FLOPs of the crossing; None where the frontiers do not cross in the range.

    ``low`` and ``high``: quantiles over the resamples that cross; ``share``: how many of all do.
    """

    flops: float | None
    low: float | None
    high: float | None
    share: float


def crossing(a: ScalingLaw, b: ScalingLaw, low: float, high: float) -> float | None:
    """FLOPs between ``low`` and ``high`` at which two arms have the same best loss; the largest if there are several."""
    from scipy.optimize import brentq

    def gap(log_flops: float) -> float:
        return a.best_loss(math.exp(log_flops)) - b.best_loss(math.exp(log_flops))

    grid = np.linspace(math.log(low), math.log(high), 200)
    signs = np.sign([gap(x) for x in grid])
    changes = np.flatnonzero(signs[:-1] * signs[1:] <= 0)
    if not len(changes) or not signs.any():
        return None
    last = int(changes[-1])
    return float(math.exp(brentq(gap, grid[last], grid[last + 1], xtol=1e-12)))


@dataclass(frozen=True, kw_only=True)
class SliceOptimum(Stored):
    """Size of least loss among the sizes of one budget; ``edge`` says that it may lie outside them."""

    size: float
    loss: float
    edge: Literal["smallest", "largest"] | None


def slice_optimum(sizes: Sequence[float], losses: Sequence[float]) -> SliceOptimum:
    """Minimum of an Akima interpolation of log loss over log size.

    A parabola is biased even without noise (arXiv 2603.22339). Raises: ConfigError for fewer than three sizes.
    """
    from scipy.interpolate import Akima1DInterpolator

    if len(set(sizes)) < 3 or len(set(sizes)) != len(losses):
        raise ConfigError(
            f"a slice needs three or more different sizes with one loss each, not {len(losses)}"
        )
    order = np.argsort(sizes)
    x, y = np.log(sizes)[order], np.log(losses)[order]
    curve = Akima1DInterpolator(x, y)
    inner = curve.derivative().roots(extrapolate=False)
    candidates = np.concatenate([x, inner[np.isfinite(inner)]])
    best = float(candidates[np.argmin(curve(candidates))])
    return SliceOptimum(
        size=math.exp(best),
        loss=float(math.exp(curve(best))),
        edge="smallest" if best <= x[0] else "largest" if best >= x[-1] else None,
    )


@dataclass(frozen=True, kw_only=True)
class PowerLaw(Stored):
    """y = coefficient · x^exponent."""

    exponent: float
    coefficient: float

    def at(self, x: float) -> float:
        return self.coefficient * x**self.exponent


def power_law(x: Sequence[float], y: Sequence[float], deviations: Sequence[float] | None = None) -> PowerLaw:
    """Least squares of log y on log x; ``deviations`` of log y weigh the points by their inverse.

    Points with a value that is not finite are left out. Raises: ConfigError for fewer than two points.
    """
    logs = np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))
    weights = np.ones(len(x)) if deviations is None else 1 / np.asarray(deviations, dtype=float)
    finite = np.isfinite(logs[0] + logs[1] + weights)
    if finite.sum() < 2:
        raise ConfigError(f"a power law needs two or more points, not {finite.sum()}")
    exponent, offset = np.polyfit(logs[0][finite], logs[1][finite], 1, w=weights[finite])
    return PowerLaw(exponent=float(exponent), coefficient=float(math.exp(offset)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _resample(points: Mapping[str, Points], generator: np.random.Generator) -> dict[str, Points]:
    return {arm: _resample_arm(arm, own, generator) for arm, own in points.items()}


def _resample_arm(arm: str, points: Points, generator: np.random.Generator) -> Points:
    trunks = sorted(set(points.trunks))
    for _ in range(REDRAWS):
        draw = points.of_trunks([trunks[i] for i in generator.integers(len(trunks), size=len(trunks))])
        if draw.is_enough:
            return draw
    raise ConfigError(
        f"{arm}: {len(trunks)} trunks are too few to resample; a band needs more sizes or seeds"
    )


def _quantiles(values: Sequence[float]) -> tuple[float, float]:
    """Bounds of the central ``LEVEL`` of the values. An order statistic each, since infinite values cannot be averaged."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail], method="nearest")
    return float(low), float(high)
