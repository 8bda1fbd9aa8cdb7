"""The judgement of a study with sizes: what it adds to standings and pairs at each budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from arch_lab import units
from arch_lab.judge.frontier import Band
from arch_lab.judge.measures import Measure
from arch_lab.judge.records import FINISHED, LIMITS_OF_SIZES, Judgement, Record, Standing
from arch_lab.judge.slices import Slices, slices_of
from arch_lab.judge.verdict import verdict_over_budgets
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.units import words

SLICES, FORECAST = "slices", "forecast"  # details of a judgement: Slices, Outcomes


def judged_sizes(judgement: Judgement, plan: Plan, records: Sequence[Record]) -> Judgement:
    """The judgement with slices and laws, warnings on tuning, and the sentence on equal seconds."""
    drawn = None if plan.grid.keep is None else {plan.tasks[0].name}
    slices = slices_of(records, plan.tasks, plan.budgets, models_of(plan), drawn=drawn)
    if plan.has_tasks:
        budgets = dict(
            zip([t.name for t in plan.tasks], [units.short(c, "FLOP") for c in plan.budgets], strict=True)
        )
        text = verdict_over_budgets(judgement.pairs, budgets, saved_compute(slices))
    else:
        seconds = equal_seconds(judgement.summary, records, plan.primary)
        text = f"{judgement.verdict.text} {seconds}".strip()
    return replace(
        judgement,
        verdict=replace(judgement.verdict, text=text, limits=LIMITS_OF_SIZES),
        warnings=(*judgement.warnings, *under_tuned(slices)),
        details={**judgement.details, SLICES: slices.to_json()},
    )


def models_of(plan: Plan) -> dict[tuple[str, int, str], PlannedArm]:
    """(arm, nominal size, task) -> the model that is trained there."""
    return {
        (arm, model.size, task.name): model
        for arm, own in plan.sizes.items()
        for model in own
        if model.size is not None
        for task in plan.tasks
        if model.applies_to(task.name)
    }


def saved_compute(slices: Slices) -> str:
    """What the reference needs at the largest budget, by both fits; empty without laws."""
    if not slices.fits:
        return ""
    largest = max(reach.flops for reach in slices.fits[0].reaches)
    clauses = []
    for arm in slices.fits[0].laws:
        bands = [
            reach.ratio
            for fit in slices.fits
            for reach in fit.reaches
            if (reach.arm, reach.flops) == (arm, largest) and reach.ratio is not None
        ]
        if bands:
            clauses.append(f"{words([times(band) for band in bands])} times the FLOPs of {arm}")
    return (
        f"For the same score {slices.reference} needs {words(clauses)} (E shared, E of its own)."
        if clauses
        else ""
    )


def times(band: Band) -> str:
    """'3.2 [2.5, 4.1]'; ∞ for a score that is never reached."""
    estimate, low, high = ("∞" if v is None else f"{v:.3g}" for v in (band.estimate, band.low, band.high))
    return f"{estimate} [{low}, {high}]"


def under_tuned(slices: Slices) -> list[str]:
    """A line per budget on the arms whose tuning curve still falls."""
    lines = []
    for task in dict.fromkeys(one.task for one in slices.slices):
        falling = [
            f"{one.arm} ({len(one.tuning.best)} settings)"
            for one in slices.slices
            if one.task == task and one.tuning is not None and one.tuning.is_falling
        ]
        if falling:
            head = f"{task}: " if task else ""
            lines.append(f"{head}under-tuned, more settings would still gain: {words(falling)}")
    return lines


def equal_seconds(standings: Sequence[Standing], records: Sequence[Record], measure: Measure) -> str:
    """What each arm reaches in the training seconds of the arm whose best run is the fastest, or in which every arm has a run.

    An arm's candidates are its runs at any size and setting that took no longer; the tune split chooses. Empty for runs of
    different machines, or without seconds.
    """
    times = {s.arm: s.seconds for s in standings if not s.baseline}
    if len(times) < 2 or any(seconds is None for seconds in times.values()):
        return ""
    runs = {arm: [r for r in records if r.arm == arm and r.status == FINISHED and r.seconds] for arm in times}
    shortest = [min(r.seconds or 0.0 for r in own) for own in runs.values() if own]
    limit = max(min(seconds for seconds in times.values() if seconds is not None), *shortest)
    sign = -1 if measure.higher_is_better else 1
    reached = []
    for arm, own in runs.items():
        fast = [r for r in own if (r.seconds or 0.0) <= 1.05 * limit]
        best = min(fast, key=lambda r: sign * (r.tuned or 0.0), default=None)
        score = None if best is None else best.score(measure.key)
        reached.append(f"{arm} {units.DASH if score is None else f'{score:.3f}'}")
    return f"At equal seconds ({units.duration(limit)} of training, best run within it): {words(reached)}."
