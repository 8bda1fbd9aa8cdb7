"""What a study with sizes and budgets shows: slices of equal compute, tuning curves, and the frontier through them.

Legend: N size (`n_eff`), D tokens, C training FLOPs; a slice is one budget at several sizes. The point of an arm at a
budget and a size is the setting with the best score on the tune split; the laws are fitted to held-out scores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol

from arch_lab.judge.frontier import RESAMPLES, Band, Crossover, Frontier, slice_optimum
from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.records import Choice, Record
from arch_lab.judge.scaling import FLOPS_PER_PARAMETER, Points, ScalingLaw
from arch_lab.judge.selection import ranked
from arch_lab.judge.tuning import TuningCurve, tuning_curve
from arch_lab.stored import Stored
from blocks.errors import ConfigError


class Sized(Protocol):
    """A model of a plan at one size."""

    @property
    def flops_per_token(self) -> int | float | None: ...


@dataclass(frozen=True, kw_only=True)
class SlicePoint(Stored):
    """An arm at one budget and size, at its best setting there. ``size``: `n_eff` as counted; ``nominal``: as planned."""

    nominal: int
    size: float
    tokens: int
    tuned: float
    score: float
    learning_rate: float
    draw: int | None = None
    settings: int


@dataclass(frozen=True, kw_only=True)
class Slice(Stored):
    """An arm at one budget. ``best``: place of its best size by the tune split; ``optimum``: size between its sizes.

    ``sensitivity``: mean distance on the tune split of all settings at the best size from the best one. ``tuning``: of settings that
    were drawn; a grid of rates says by its edges whether it was wide enough.
    """

    task: str
    flops: float
    arm: str
    points: tuple[SlicePoint, ...]
    best: int
    optimum: float | None = None
    edge: str | None = None
    sensitivity: float | None = None
    tuning: TuningCurve | None = None


@dataclass(frozen=True, kw_only=True)
class Reach(Stored):
    """An arm at one budget by its law: loss and size there, and the multiple of the FLOPs that the reference needs.

    ``ratio``: above 1, the arm needs less compute than the reference for the same loss.
    """

    arm: str
    flops: float
    loss: Band
    size: Band
    ratio: Band | None = None


@dataclass(frozen=True, kw_only=True)
class Fitted(Stored):
    """Laws of all arms, what follows at each budget, and where frontiers cross. ``tied``: whether the arms share E."""

    tied: bool
    laws: dict[str, ScalingLaw]
    reaches: tuple[Reach, ...]
    crossovers: dict[str, Crossover] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Slices(Stored):
    """All of it. ``reference``: the arm that compute ratios are against; ``unfitted``: why there are no laws."""

    measure: str
    reference: str
    slices: tuple[Slice, ...]
    fits: tuple[Fitted, ...] = ()
    unfitted: str = ""

    def of(self, arm: str) -> list[Slice]:
        return [one for one in self.slices if one.arm == arm]


def slices_of(
    records: Sequence[Record],
    tasks: Sequence[Task],
    budgets: Sequence[float],
    models: Mapping[tuple[str, int, str], Sized],
    *,
    drawn: Collection[str] | None = None,
    resamples: int = RESAMPLES,
) -> Slices:
    """Slices, tuning curves and laws of the records of a study.

    Args:
        records: of all trials at the study's own seeds.
        tasks: one per budget.
        budgets: training FLOPs of each task.
        models: (arm, nominal size, task) -> the model, whose FLOPs per token are counted.
        drawn: tasks whose settings were drawn, not kept from the budget before; None: all. Only they have tuning curves.
        resamples: draws of trunks for the bands.
    """
    arms = list(dict.fromkeys(record.arm for record in records))
    measure = tasks[0].primary
    slices = [
        one
        for task, flops in zip(tasks, budgets, strict=True)
        for arm in arms
        if (one := _slice(records, task, flops, arm, models, drawn is None or task.name in drawn)) is not None
    ]
    fits, problem = _fits(records, slices, models, measure, resamples) if arms else ((), "")
    return Slices(
        measure=measure.name,
        reference=arms[0] if arms else "",
        slices=tuple(slices),
        fits=fits,
        unfitted=problem,
    )


def _tuned(records: Sequence[Record]) -> dict[Choice, dict[int, float | None]]:
    tuned: dict[Choice, dict[int, float | None]] = defaultdict(dict)
    for record in records:
        tuned[record.choice][record.seed] = record.tuning_score
    return tuned


def _slice(
    records: Sequence[Record],
    task: Task,
    flops: float,
    arm: str,
    models: Mapping[tuple[str, int, str], Sized],
    is_drawn: bool,
) -> Slice | None:
    own = [r for r in records if (r.arm, r.task) == (arm, task.name) and r.size is not None]
    seed = own[0].seed if own else 0  # further seeds ran at one choice only
    own = [r for r in own if r.seed == seed]
    points = []
    for nominal in sorted({r.size for r in own if r.size is not None}):
        of_size = [r for r in own if r.size == nominal]
        best = ranked(_tuned(of_size), task.primary)[0]
        record = next(r for r in of_size if r.choice == best)
        score = record.score(task.primary.key)
        if record.tuning_score is None or score is None or best.learning_rate is None:
            continue  # no setting of this size finished
        model = models[arm, nominal, task.name]
        points.append(
            SlicePoint(
                nominal=nominal,
                size=float(model.flops_per_token or 0) / FLOPS_PER_PARAMETER,
                tokens=record.tokens or 0,
                tuned=record.tuning_score,
                score=score,
                learning_rate=best.learning_rate,
                draw=best.draw,
                settings=len(of_size),
            )
        )
    if not points:
        return None
    sign = -1 if task.primary.higher_is_better else 1
    best_place = min(range(len(points)), key=lambda i: sign * points[i].tuned)
    at_best = [r.tuning_score for r in own if r.size == points[best_place].nominal]
    curve = tuning_curve(at_best, higher_is_better=task.primary.higher_is_better)
    optimum = slice_optimum([p.size for p in points], [p.tuned for p in points]) if len(points) > 2 else None
    return Slice(
        task=task.name,
        flops=flops,
        arm=arm,
        points=tuple(points),
        best=best_place,
        optimum=optimum.size if optimum else None,
        edge=optimum.edge if optimum else None,
        sensitivity=curve.sensitivity if curve is not None and len(at_best) > 1 else None,
        tuning=curve if is_drawn and points[best_place].draw is not None else None,
    )


def _fits(
    records: Sequence[Record],
    slices: Sequence[Slice],
    models: Mapping[tuple[str, int, str], Sized],
    measure: Measure,
    resamples: int,
) -> tuple[tuple[Fitted, ...], str]:
    try:
        fitted = frontiers(records, slices, models, measure, resamples=resamples)
    except ConfigError as error:
        return (), f"no law is fitted: {error}"
    budgets = sorted({one.flops for one in slices})
    return tuple(_fitted(frontier, budgets, tied) for tied, frontier in fitted.items()), ""


def frontiers(
    records: Sequence[Record],
    slices: Sequence[Slice],
    models: Mapping[tuple[str, int, str], Sized],
    measure: Measure,
    *,
    resamples: int = RESAMPLES,
) -> dict[bool, Frontier]:
    """Laws with bands: with E shared by the arms (True) and, of several arms, with an E of its own for each (False).

    Raises: ConfigError for too few points, or points that no law describes.
    """
    points = {
        arm: _points(records, [s for s in slices if s.arm == arm], models, measure) for arm in _arms(slices)
    }
    for arm, own in points.items():
        if not own.is_enough:
            raise ConfigError(
                f"{arm} has too few points; a law needs five or more, of three sizes and three budgets"
            )
    ways = (True, False) if len(points) > 1 else (True,)
    return {tied: Frontier.fitted(points, tied=tied, resamples=resamples) for tied in ways}


def _arms(slices: Sequence[Slice]) -> list[str]:
    return list(dict.fromkeys(one.arm for one in slices))


def _points(
    records: Sequence[Record],
    slices: Sequence[Slice],
    models: Mapping[tuple[str, int, str], Sized],
    measure: Measure,
) -> Points:
    """Held-out scores of an arm at the best setting of every budget and size, over all seeds that ran there."""
    rows = []
    for one in slices:
        for point in one.points:
            for r in records:
                at = (r.arm, r.task, r.size, r.learning_rate, r.draw)
                score = r.score(measure.key)
                if (
                    at == (one.arm, one.task, point.nominal, point.learning_rate, point.draw)
                    and score is not None
                ):
                    rows.append((point.size, float(r.tokens or 0), score, f"{r.size} {r.draw} {r.seed}"))
    sizes, tokens, losses, trunks = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Points(sizes=sizes, tokens=tokens, losses=losses, trunks=trunks)


def _fitted(frontier: Frontier, budgets: Sequence[float], tied: bool) -> Fitted:
    arms = list(frontier.laws)
    reference = arms[0]
    reaches = [
        Reach(
            arm=arm,
            flops=flops,
            loss=frontier.loss(arm, flops),
            size=frontier.size(arm, flops),
            ratio=None if arm == reference else frontier.compute_ratio(arm, reference, flops),
        )
        for arm in arms
        for flops in budgets
    ]
    crossovers = {
        f"{b} − {a}": frontier.crossover(a, b, budgets[0], budgets[-1]) for a, b in combinations(arms, 2)
    }
    return Fitted(tied=tied, laws=dict(frontier.laws), reaches=tuple(reaches), crossovers=crossovers)
