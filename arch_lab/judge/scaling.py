"""Scaling laws fitted to losses: L(N, D) = E + A·N^-alpha + B·D^-beta, with E tied across arms or not.

Legend: N model size (`n_eff`, training FLOPs per token / 6), D training tokens, C = 6·N·D training FLOPs.
Source: Chinchilla's third approach (arXiv 2203.15556), as refitted in arXiv 2404.10102. For fixed exponents the
law is linear in (E, A, B), so a grid over the two exponents alone gives the starts (variable projection); the
best of them are polished in all parameters under the Huber loss of the log residuals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Self

import numpy as np
from numpy.typing import NDArray

from arch_lab.stored import Stored
from blocks.errors import ConfigError

Vector = NDArray[np.float64]

HUBER_DELTA = 1e-3  # of the log loss, as published
FLOPS_PER_PARAMETER = 6.0
PARAMETERS = 5  # of one law
EXPONENTS = np.geomspace(0.05, 2.0, 24)  # grid of starts, for either exponent
POLISHED = 4  # starts that are refined
TOLERANCE = 1e-12  # relative, of the cost, its gradient and the parameters
_SMALLEST = (
    1e-8  # share of the mean loss that stands in for a coefficient of zero, whose logarithm is infinite
)


class Degenerate(ConfigError):
    """Points that no law describes."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """Losses of one arm: sizes N, tokens D, and the trunk that each point branched from.

    Points of one trunk are dependent, so bootstraps draw trunks.
    """

    sizes: tuple[float, ...]
    tokens: tuple[float, ...]
    losses: tuple[float, ...]
    trunks: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.sizes) == len(self.tokens) == len(self.losses) == len(self.trunks):
            raise ConfigError("points: sizes, tokens, losses and trunks differ in number")
        if any(not 0 < value < float("inf") for value in (*self.sizes, *self.tokens, *self.losses)):
            raise ConfigError("points: sizes, tokens and losses must be positive and finite")

    @property
    def is_enough(self) -> bool:
        """Whether the points determine a law."""
        different = len(set(zip(self.sizes, self.tokens, strict=True)))
        return different >= PARAMETERS and len(set(self.sizes)) >= 3 and len(set(self.tokens)) >= 3

    def of_trunks(self, trunks: Sequence[str]) -> Self:
        """The points of these trunks, repeated as often as a trunk is named."""
        rows = [i for trunk in trunks for i, own in enumerate(self.trunks) if own == trunk]
        sizes, tokens, losses = (
            tuple(values[i] for i in rows) for values in (self.sizes, self.tokens, self.losses)
        )
        return type(self)(
            sizes=sizes, tokens=tokens, losses=losses, trunks=tuple(self.trunks[i] for i in rows)
        )


@dataclass(frozen=True, kw_only=True)
class ScalingLaw(Stored):
    """L(N, D) = E + A·N^-alpha + B·D^-beta, and what follows from it at the best size for a compute C."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float

    def loss(self, size: float, tokens: float) -> float:
        """Loss of a model of ``size`` after ``tokens``."""
        return self.E + self.A * size**-self.alpha + self.B * tokens**-self.beta

    @property
    def size_exponent(self) -> float:
        """a in N* = G·(C/6)^a."""
        return self.beta / (self.alpha + self.beta)

    @property
    def compute_exponent(self) -> float:
        """c in L*(C) = E + K·C^-c."""
        return self.alpha * self.beta / (self.alpha + self.beta)

    def best_size(self, flops: float) -> float:
        """The size of least loss for ``flops`` of training."""
        balance = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        return balance * (flops / FLOPS_PER_PARAMETER) ** self.size_exponent

    def best_loss(self, flops: float) -> float:
        """The loss at the best size."""
        size = self.best_size(flops)
        return self.loss(size, flops / FLOPS_PER_PARAMETER / size)

    def flops_for(self, loss: float) -> float:
        """Training FLOPs at which the best size reaches ``loss``; infinite at or below E."""
        if loss <= self.E:
            return float("inf")
        scale = self.best_loss(1.0) - self.E  # K, since C = 1
        return float((scale / (loss - self.E)) ** (1 / self.compute_exponent))


def fit(
    points: Mapping[str, Points], *, tied: bool = True, starts: Mapping[str, ScalingLaw] | None = None
) -> dict[str, ScalingLaw]:
    """The law of every arm.

    Args:
        points: losses per arm.
        tied: whether all arms share E, the loss that no compute removes (of the same text, in the same unit).
        starts: laws to start from instead of the grid, for resamples of data that were fitted before.

    Raises: ConfigError when an arm has too few points, sizes or token counts, or when they determine no law.
    """
    for arm, own in points.items():
        _require_enough(arm, own)
    if starts is not None:
        groups = [points] if tied else [{arm: own} for arm, own in points.items()]
        return {arm: law for group in groups for arm, law in _polish(group, starts)[0].items()}
    apart = {arm: _alone(own) for arm, own in points.items()}
    if not tied or len(points) == 1:
        return apart
    floors = sorted({law.E for law in apart.values()} | {float(np.mean([law.E for law in apart.values()]))})
    return _best(
        points,
        [{arm: _with_floor(points[arm], law, floor) for arm, law in apart.items()} for floor in floors],
    )


def huber_cost(points: Mapping[str, Points], laws: Mapping[str, ScalingLaw]) -> float:
    """Huber loss of the log residuals, summed over all points."""
    residuals = np.concatenate(
        [
            np.log([laws[arm].loss(n, d) for n, d in zip(own.sizes, own.tokens, strict=True)])
            - np.log(own.losses)
            for arm, own in points.items()
        ]
    )
    size = np.abs(residuals)
    linear = HUBER_DELTA * (size - HUBER_DELTA / 2)
    return float(np.where(size <= HUBER_DELTA, size**2 / 2, linear).sum())


def _require_enough(arm: str, points: Points) -> None:
    if not points.is_enough:
        raise ConfigError(
            f"{arm}: {len(points.losses)} points of {len(set(points.sizes))} sizes and "
            f"{len(set(points.tokens))} token counts; a scaling law needs {PARAMETERS} different points or more, "
            f"of three sizes and three token counts"
        )


def _alone(points: Points) -> ScalingLaw:
    """The law of one arm, from the best cells of a grid over the exponents."""
    scored = sorted(
        (_project(points, alpha, beta) for alpha, beta in product(EXPONENTS, EXPONENTS)),
        key=lambda pair: pair[1],
    )
    return _best({"": points}, [{"": law} for law, _ in scored[:POLISHED]])[""]


def _best(points: Mapping[str, Points], starts: Sequence[Mapping[str, ScalingLaw]]) -> dict[str, ScalingLaw]:
    """The best minimum from any start. Raises: Degenerate when all starts end without bound."""
    found = []
    for start in starts:
        try:
            found.append(_polish(points, start))
        except Degenerate as error:
            problem = error
    if not found:
        raise problem
    return min(found, key=lambda candidate: candidate[1])[0]


def _project(
    points: Points, alpha: float, beta: float, floor: float | None = None
) -> tuple[ScalingLaw, float]:
    """The law of these exponents with least squared relative error, and that error; ``floor`` fixes E."""
    from scipy.optimize import nnls

    sizes, tokens, losses = map(np.asarray, (points.sizes, points.tokens, points.losses))
    middle_size, middle_tokens = (float(np.exp(np.log(values).mean())) for values in (sizes, tokens))
    columns = [(sizes / middle_size) ** -alpha, (tokens / middle_tokens) ** -beta]
    if floor is None:
        columns.append(np.ones_like(losses))
    target = np.ones_like(losses) - (0.0 if floor is None else floor / losses)
    coefficients, error = nnls(np.stack(columns, axis=1) / losses[:, None], target)
    smallest = _SMALLEST * float(losses.mean())
    a, b, e = (max(float(c), smallest) for c in (*coefficients, *([] if floor is None else [floor])))
    law = ScalingLaw(
        E=e, A=a * middle_size**alpha, alpha=float(alpha), B=b * middle_tokens**beta, beta=float(beta)
    )
    return law, float(error)


def _with_floor(points: Points, law: ScalingLaw, floor: float) -> ScalingLaw:
    floor = min(floor, 0.999 * min(points.losses))
    return _project(points, law.alpha, law.beta, floor)[0]


def _polish(
    points: Mapping[str, Points], laws: Mapping[str, ScalingLaw]
) -> tuple[dict[str, ScalingLaw], float]:
    """Laws of one E at a minimum of the Huber loss near ``laws``, and that loss.

    Coefficients are searched as logarithms at the middle of the data, so that they stay positive and the problem
    is well scaled.
    """
    from scipy.optimize import least_squares

    arms = list(points)
    data = [_Logs.of(points[arm]) for arm in arms]
    start = [np.log(np.mean([laws[arm].E for arm in arms]))]
    for arm, logs in zip(arms, data, strict=True):
        law = laws[arm]
        start += [
            np.log(law.A) - law.alpha * logs.middle_size,
            law.alpha,
            np.log(law.B) - law.beta * logs.middle_tokens,
            law.beta,
        ]

    def residuals(x: Vector) -> Vector:
        return np.concatenate([logs.residuals(x[0], x[1 + 4 * i : 5 + 4 * i]) for i, logs in enumerate(data)])

    def jacobian(x: Vector) -> Vector:
        rows = []
        for i, logs in enumerate(data):
            floor, own = logs.jacobian(x[0], x[1 + 4 * i : 5 + 4 * i])
            block = np.zeros((len(floor), len(x)))
            block[:, 0], block[:, 1 + 4 * i : 5 + 4 * i] = floor, own
            rows.append(block)
        return np.concatenate(rows)

    with np.errstate(over="ignore"):  # a step too far is infinite, and taken back
        solution = least_squares(
            residuals,
            np.asarray(start),
            jacobian,
            loss="huber",
            f_scale=HUBER_DELTA,
            x_scale="jac",
            xtol=TOLERANCE,
            ftol=TOLERANCE,
            gtol=TOLERANCE,
            max_nfev=3000,
        )
    floor = float(np.exp(solution.x[0]))
    result = {
        arm: logs.law(floor, solution.x[1 + 4 * i : 5 + 4 * i])
        for i, (arm, logs) in enumerate(zip(arms, data, strict=True))
    }
    return result, float(solution.cost)


@dataclass(frozen=True, kw_only=True)
class _Logs:
    """Logarithms of an arm's points, sizes and tokens relative to their means."""

    sizes: Vector
    tokens: Vector
    losses: Vector
    middle_size: float
    middle_tokens: float

    @classmethod
    def of(cls, points: Points) -> Self:
        sizes, tokens, losses = (np.log(values) for values in (points.sizes, points.tokens, points.losses))
        return cls(
            sizes=sizes - sizes.mean(),
            tokens=tokens - tokens.mean(),
            losses=losses,
            middle_size=float(sizes.mean()),
            middle_tokens=float(tokens.mean()),
        )

    def terms(self, floor: float, own: Vector) -> tuple[Vector, Vector, Vector]:
        """The three terms of the law at every point; ``own``: log A, alpha, log B, beta at the middle."""
        log_a, alpha, log_b, beta = own
        return (
            np.full_like(self.losses, np.exp(floor)),
            np.exp(log_a - alpha * self.sizes),
            np.exp(log_b - beta * self.tokens),
        )

    def residuals(self, floor: float, own: Vector) -> Vector:
        return np.log(sum(self.terms(floor, own))) - self.losses

    def jacobian(self, floor: float, own: Vector) -> tuple[Vector, Vector]:
        constant, size, tokens = self.terms(floor, own)
        total = constant + size + tokens
        columns = [size, -size * self.sizes, tokens, -tokens * self.tokens]
        return constant / total, np.stack(columns, axis=1) / total[:, None]

    def law(self, floor: float, own: Vector) -> ScalingLaw:
        log_a, alpha, log_b, beta = map(float, own)
        with np.errstate(over="ignore"):
            a, b = np.exp(log_a + alpha * self.middle_size), np.exp(log_b + beta * self.middle_tokens)
        if not (np.isfinite(a) and np.isfinite(b)):
            raise Degenerate("the points determine no exponent: one of them grows without bound")
        return ScalingLaw(E=floor, A=float(a), alpha=alpha, B=float(b), beta=beta)
