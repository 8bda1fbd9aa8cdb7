"""The budget gate applied to a study again: deviations are computed anew, stored flags are ignored.

A study.json can be edited, copied together or written by an older version. Whoever turns one into a report
asks here first: arms that miss the budget, or trials that did not train as long as their arm's plan says, are
refused, unless the study says ``override``; then the report is marked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from arch_lab.budget.budget import Budget, BudgetError
from arch_lab.budget.gate import Miss, check, deviations
from arch_lab.judge.records import FINISHED, Record
from arch_lab.stored import Facts
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.study import Study
from arch_lab.units import rate

UNMATCHED = "The budgets are not matched, so this is not a comparison at equal cost."


def arm_deviations(arm: PlannedArm, budget: Facts) -> dict[str, float]:
    """Signed relative distance of an arm from each axis of ``budget``, from the arm's counts."""
    seconds = None
    if arm.calibration is not None and arm.steps is not None:
        seconds = arm.steps * arm.calibration.seconds_per_step
    spent = {axis: getattr(arm, axis) for axis in ("flops_per_token", "train_flops", "tokens")}
    return deviations(budget, parameters=arm.parameters, spent=spent, seconds=seconds)


def misses_of(plan: Plan, records: Sequence[Record] = ()) -> list[Miss]:
    """Misses of a plan or study: arms, then finished trials off their arm's plan.

    Raises: ConfigError when the stored budget is none (a tolerance above 10 %, no axis), KeyError for an arm
    without counts.
    """
    if plan.sizes:
        return _misses_of_sizes(plan, records)
    stored = {key: value for key, value in plan.budget.items() if value is not None}
    tokens = (
        {} if plan.sequence_length is not None else {"tokens": 1}
    )  # nothing is trained: an axis of size alone
    budget = Budget.from_options({**tokens, **stored, "tolerance": plan.tolerance}, where="the stored budget")
    arms = [_recounted(arm, plan) for arm in plan.arms if not arm.baseline]
    misses = check([replace(arm, deviation=arm_deviations(arm, stored)) for arm in arms], budget)
    return [*misses, *_cut_short(records, {arm.name: arm.tokens for arm in arms}, budget.tolerance)]


def _misses_of_sizes(plan: Plan, records: Sequence[Record]) -> list[Miss]:
    """As ``misses_of``, of a study with sizes: every model of a budget spends its training FLOPs."""
    assert plan.tolerance is not None
    misses: list[Miss] = []
    for task, flops in zip(plan.tasks, plan.budgets, strict=True):
        at = {"train_flops": flops}
        budget = Budget(train_flops=flops, flops_per_token=1.0, tolerance=plan.tolerance)
        models = [_recounted(model, plan) for model in plan.models if model.applies_to(task.name)]
        misses += check([replace(m, deviation=arm_deviations(m, at)) for m in models], budget)
        trained = [record for record in records if record.task == task.name]
        for arm in plan.sizes:
            own_records = [record for record in trained if record.arm == arm]
            for size in {record.size for record in own_records}:
                tokens = {arm: plan.model(arm, size, task.name).tokens}
                of_size = [record for record in own_records if record.size == size]
                misses += _cut_short(of_size, tokens, plan.tolerance)
    return misses


def _recounted(arm: PlannedArm, plan: Plan) -> PlannedArm:
    """The arm with tokens and FLOPs of a whole trial by its steps, which is what was trained."""
    if plan.sequence_length is None or plan.batch_size is None:  # nothing is trained
        return arm
    assert arm.steps is not None, f"arm {arm.name!r} has no steps"
    assert arm.flops_per_token is not None, f"arm {arm.name!r} has no flops_per_token"
    tokens = arm.steps * plan.sequence_length * plan.batch_size
    return replace(arm, tokens=tokens, train_flops=arm.flops_per_token * tokens)


def _cut_short(records: Sequence[Record], planned: Mapping[str, int | None], tolerance: float) -> list[Miss]:
    """Finished trials that trained on another number of tokens than their arm's. ``planned``: arm -> tokens."""
    misses = []
    for record in records:
        tokens = planned.get(record.arm)
        if record.status == FINISHED and record.tokens is not None and tokens:
            off = record.tokens / tokens - 1
            if abs(off) > tolerance:
                label = f"arm {record.arm!r}, learning rate {rate(record.learning_rate)}, seed {record.seed}"
                text = f"{label} trained on {record.tokens:,} tokens, {off:+.2%} off its plan"
                misses.append(Miss(arm=record.arm, axis="tokens", deviation=off, text=text))
    return misses


def matched_plan(plan: Plan, records: Sequence[Record], where: str) -> Plan:
    """``plan`` (or a study) with ``matched`` and ``misses`` as they really are; unchanged where no budget is held.

    Raises: BudgetError when arms are not matched and the study does not say ``override``, or when its arms
    lack counts.
    """
    if not plan.budget:
        return plan
    try:
        misses = misses_of(plan, records)
    except (KeyError, TypeError, AttributeError, AssertionError, ZeroDivisionError, ValueError) as error:
        raise BudgetError(
            f"{where}: the budget cannot be checked again ({type(error).__name__}: {error}); run `arch-lab compare` again"
        ) from None
    if misses and not plan.override:
        more = f" (and {len(misses) - 1} more)" if len(misses) > 1 else ""
        raise BudgetError(
            f"{where}: refused: {misses[0].text}{more}; tolerance {plan.tolerance:.1%}. Arms that are not matched are not "
            "compared; only a study run with budget.allow_unmatched: true may still be reported"
        )
    return replace(plan, matched=not misses, misses=tuple(misses))


def require_matched(study: Study, where: str) -> Study:
    """As ``matched_plan``, of a finished study; the verdict says that the budgets are not matched. Raises: BudgetError."""
    checked = matched_plan(study, study.results, where)
    assert isinstance(checked, Study)
    if checked.matched or UNMATCHED in study.verdict.text:
        return checked
    return replace(checked, verdict=replace(study.verdict, text=f"{UNMATCHED} {study.verdict.text}".strip()))
