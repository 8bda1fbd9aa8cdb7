"""The plan of a study that trains: shapes, parameters, FLOPs, steps and time, before any data are read.

Legend: T sequence length, B sequences per step.
The vocabulary that a tokenizer is asked for is the one it must deliver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

from arch_lab import units
from arch_lab.accounting import Ledger, ledger
from arch_lab.budget import Budget, BudgetError, check, refuse, solve, solve_each
from arch_lab.judge.measures import Task
from arch_lab.judge.regime import FACTOR, TOKENS_PER_PARAMETER
from arch_lab.models import Recipe, Shape, require_kind
from arch_lab.models.model import Kind, Model
from arch_lab.study.code_identity import APART, LOADING, TRAINING, trial_code
from arch_lab.study.config import Arm, TrainingStudyConfig
from arch_lab.study.estimate import estimate
from arch_lab.study.initial import initial_warnings, initial_weights
from arch_lab.study.plan import Calibration, OptimizerGroup, Plan, PlannedArm
from arch_lab.study.recheck import arm_deviations
from arch_lab.study.search import Grid
from arch_lab.study.sizes import TOLERANCE as SIZE_TOLERANCE
from arch_lab.study.sizes import models_of, sized_arms
from arch_lab.training.optimizer import groups
from blocks.errors import ConfigError

ESTIMATED, MEASURED = "estimate", "measured"  # where an arm's seconds per step come from


def build_plan(
    config: TrainingStudyConfig, experiment: Any, timings: Mapping[str, float] | None = None
) -> Plan:
    """The plan of a study of an experiment (TrainingExperiment).

    ``timings``: measured seconds of a training step, by arm, for a budget in seconds; arms without are estimated.
    Raises: BudgetError when an arm cannot meet the budget, or when fixed shapes miss it and the study does not say
    ``budget.allow_unmatched``; ConfigError for options that do not fit.
    """
    vocabulary, budget, training = experiment.vocabulary(config.data), config.budget, config.training
    if budget.sizes is not None:
        return _sized_plan(config, experiment, vocabulary)
    shapes = solved(
        config.arms,
        config.experiment,
        budget,
        kind=experiment.kind,
        vocabulary=vocabulary,
        tokens=training.sequence_length,
        batch=training.rows,
    )
    arms = tuple(
        _planned(config, experiment, arm, recipe, shape, vocabulary, (timings or {}).get(arm.name))
        for arm, (recipe, shape) in zip(config.arms, shapes, strict=True)
    )
    _check_groups(config, arms)
    misses = check(arms, budget)
    if misses and not budget.allow_unmatched:
        refuse(arms, budget)
    grid = config.search.grid() if config.search is not None else Grid()
    return _numbered(
        Plan(
            **_shared(config, vocabulary),
            tasks=(Task(measures=experiment.measures),),
            arms=arms,
            grid=grid,
            matched=not misses,
            override=bool(misses),
            misses=tuple(misses),
            warnings=(*_warnings(config, arms), *(_far_from_optimal(arms) if experiment.has_regime else ())),
        )
    )


def _sized_plan(config: TrainingStudyConfig, experiment: Any, vocabulary: int) -> Plan:
    """The plan of a study whose arms are trained at several sizes, for one budget or more."""
    recipes_of(config.arms, config.experiment, experiment.kind)
    sizes, tasks = sized_arms(config, lambda at, arm, name: _sized(at, experiment, arm, vocabulary, name))
    planned = [[m for m in models_of(sizes, task) if m.size in own] for task, own in tasks.items()]
    misses = [miss for models in planned for miss in check(models, config.budget)]
    if misses and not config.budget.allow_unmatched:
        refuse(next(models for models in planned if check(models, config.budget)), config.budget)
    _check_groups(config, [model for models in sizes.values() for model in models])
    first = {name: models[0] for name, models in sizes.items()}
    arms = tuple(
        PlannedArm(
            name=arm.name, architecture=arm.architecture, options=arm.options, code=first[arm.name].code
        )
        for arm in config.arms
    )
    grid = config.search.grid() if config.search is not None else Grid()
    return _numbered(
        Plan(
            **_shared(config, vocabulary),
            tasks=tuple(Task(name=task, measures=experiment.measures) for task in tasks),
            arms=arms,
            sizes=sizes,
            grid=replace(grid, sizes=tasks),
            matched=not misses,
            override=bool(misses),
            misses=tuple(misses),
        )
    )


def _sized(config: TrainingStudyConfig, experiment: Any, arm: Arm, vocabulary: int, name: str) -> PlannedArm:
    """The model of an arm at the one size and budget of ``config``."""
    training, budget = config.training, config.budget
    free = replace(budget, tolerance=SIZE_TOLERANCE)
    recipe = arm.recipe()
    shape = solve(
        recipe, free, vocabulary=vocabulary, max_tokens=training.sequence_length, batch=training.rows
    ).shape
    model = _planned(config, experiment, arm, recipe, shape, vocabulary, None)
    spent = {"train_flops": model.deviation["train_flops"]}
    return replace(model, name=name, deviation=spent)


def _shared(config: TrainingStudyConfig, vocabulary: int) -> dict[str, Any]:
    """What a plan takes over from the configuration of its study. ``trials`` are counted afterwards."""
    return {
        "study": config.name,
        "experiment": config.experiment,
        "description": config.description,
        "budget": config.budget.to_json(),
        "tolerance": config.budget.tolerance,
        "vocabulary": vocabulary,
        "sequence_length": config.training.sequence_length,
        "batch_size": config.training.batch_size,
        "training": asdict(config.training),
        "objective": config.objective,
        "learning_rates": tuple(config.rates),
        "seeds": tuple(config.seeds),
        "tuning_seeds": tuple(config.grid_seeds),
        "control_seeds": tuple(config.control_seeds),
        "widen": config.widen,
        "trials": 0,
    }


def _numbered(plan: Plan) -> Plan:
    """The plan with the number of its trials."""
    others = len(plan.seeds) - len(plan.tuning_seeds) + len(plan.control_seeds)
    each = sum(plan.tuning_trials(task.name) + others for task in plan.tasks)
    return replace(plan, trials=len(plan.arms) * each)


def solved(
    arms: Sequence[Arm],
    experiment: str,
    budget: Budget,
    *,
    kind: Kind = "decoder",
    vocabulary: int,
    tokens: int,
    batch: int = 1,
) -> list[tuple[Recipe, Shape]]:
    """Recipe and shape of every arm, solved where an arm does not fix its own.

    Raises: BudgetError when one cannot meet the budget; ConfigError for an arm of another ``kind``, or options that do not fit.
    """
    recipes = recipes_of(arms, experiment, kind)
    free = [recipe for arm, recipe in zip(arms, recipes, strict=True) if arm.shape is None]
    candidates = iter(
        solve_each(free, budget, vocabulary=vocabulary, max_tokens=tokens, batch=batch) if free else []
    )
    return [
        (recipe, arm.fixed() or next(candidates).shape) for arm, recipe in zip(arms, recipes, strict=True)
    ]


def recipes_of(arms: Sequence[Arm], experiment: str, kind: Kind) -> list[Recipe]:
    """Recipe of every arm. Raises: ConfigError for one that builds another kind of model."""
    recipes = [arm.recipe() for arm in arms]
    for arm, recipe in zip(arms, recipes, strict=True):
        require_kind(recipe, kind, f"experiment {experiment!r}, arm {arm.name!r}: ")
    return recipes


def _check_groups(config: TrainingStudyConfig, arms: Sequence[PlannedArm]) -> None:
    """Raises: ConfigError for a rule that reaches no parameter of any arm: a group that silently does nothing."""
    every = [group for arm in arms for group in arm.optimizer_groups]
    reached = {group.name for group in every if not group.declared}
    for rule in config.training.groups:
        if rule.name not in reached:
            patterns = f" ({', '.join(rule.match)})" if rule.match else ""
            raise ConfigError(
                f"training.groups: {rule.name!r}{patterns} matches no parameter of any arm; "
                f"their groups: {', '.join(sorted({group.name for group in every}))}"
            )


def _warnings(config: TrainingStudyConfig, arms: Sequence[PlannedArm]) -> list[str]:
    """Steps that are guessed, and arms trained before."""
    warnings = initial_warnings(arms)
    if any(arm.calibration is not None and arm.calibration.source != MEASURED for arm in arms):
        warnings.append(
            "budget.seconds: these steps are an estimate; arch-lab compare times real steps of every arm before it trains"
        )
    return warnings


def _far_from_optimal(arms: Sequence[PlannedArm]) -> list[str]:
    """A line on the arms whose size is far from the compute-optimal one."""
    far = {arm.name: arm.regime for arm in arms if arm.regime is not None and arm.regime.is_far}
    if not far:
        return []
    each = ", ".join(
        f"{name} {units.short(r.size)} ({r.ratio:.2g} × {units.short(r.best_size)})"
        for name, r in far.items()
    )
    return [
        f"n_eff is more than {FACTOR} × from the compute-optimal size ({TOKENS_PER_PARAMETER} tokens per "
        f"parameter): {each}; sizes nearer to it tell more about the architectures for the same FLOPs"
    ]


def _planned(
    config: TrainingStudyConfig,
    experiment: Any,
    arm: Arm,
    recipe: Recipe,
    shape: Shape,
    vocabulary: int,
    timing: float | None,
) -> PlannedArm:
    tokens, rows = config.training.sequence_length, config.training.rows
    model_config = recipe.config(shape, vocabulary=vocabulary, max_tokens=tokens)
    model = model_config.build("meta")
    costs = ledger(model_config, tokens=tokens, batch=rows, model=model)
    counted = _with_length(config, arm.name, costs, model, shape, timing)
    code_ends = APART if arm.initialise_from else (*APART, *LOADING)
    rules = config.training.groups
    optimizer_groups = groups(model, weight_decay=config.training.weight_decay, rules=rules)
    planned = replace(
        counted,
        architecture=arm.architecture,
        options=arm.options,
        components=costs.components,
        elementwise_per_token=_elementwise(costs),
        conventions=costs.conventions,
        state_bytes=costs.state_bytes,
        optimizer_groups=tuple(
            OptimizerGroup(parameters=group.parameters, **asdict(group.treatment))
            for group in optimizer_groups
        ),
        code=trial_code([model, recipe, experiment], also=TRAINING, excluded=code_ends),
        initialise_from=initial_weights(arm, model, vocabulary),
    )
    return replace(planned, deviation=arm_deviations(planned, config.budget.to_json()))


def _with_length(
    config: TrainingStudyConfig, name: str, costs: Ledger, model: Model, shape: Shape, timing: float | None
) -> PlannedArm:
    """Shape and counts of an arm, with the number of steps that meets the budget."""
    tokens_per_step = costs.tokens * config.training.batch_size
    per_step: dict[str, Fraction | float] = {
        "train_flops": costs.training * tokens_per_step,
        "tokens": tokens_per_step,
    }
    calibration = None
    if config.budget.seconds is not None:
        one_step = estimate(costs, model, costs.training * tokens_per_step).seconds_per_trial
        per_step["seconds"] = one_step if timing is None else timing
        calibration = Calibration(
            seconds_per_step=float(per_step["seconds"]), source=ESTIMATED if timing is None else MEASURED
        )
    steps = _steps(config, name, per_step)
    tokens = steps * tokens_per_step
    flops = costs.training * tokens
    return PlannedArm(
        name=name,
        width=shape.width,
        depth=shape.depth,
        ffn_width=shape.ffn_width,
        parameters=costs.parameters,
        flops_per_token=_plain(costs.training),
        train_flops=_plain(flops),
        tokens=tokens,
        steps=steps,
        estimate=estimate(costs, model, flops),
        calibration=calibration,
    )


def _elementwise(costs: Ledger) -> float:
    """Element-wise FLOPs per token of training."""
    forward = costs.batch * costs.cost.elementwise + costs.cost.shared_elementwise
    return float(Fraction(3 * forward, costs.tokens * costs.batch))


def _steps(config: TrainingStudyConfig, name: str, per_step: Mapping[str, Fraction | float]) -> int:
    """Whole steps that meet the axes of length; between two of them (FLOPs and tokens) the middle. Raises: BudgetError."""
    budget, targets = config.budget, config.budget.length_targets
    exact = sum(
        (Fraction(target) / Fraction(per_step[axis]) for axis, target in targets.items()), Fraction(0)
    )
    exact /= len(targets)
    steps = round(exact)
    if steps < 1 or (abs(steps / exact - 1) > budget.tolerance and not budget.allow_unmatched):
        key = next(iter(targets))
        one = float(per_step[key])
        spends = {
            "train_flops": f"{one:.3g} FLOPs",
            "tokens": f"{one:,.0f} tokens",
            "seconds": f"{one:.3g} seconds",
        }[key]
        raise BudgetError(
            f"budget: arm {name!r} spends {spends} a step, so whole steps cannot meet budget.{key} within {budget.tolerance:.1%} "
            f"(nearest: {max(1, steps)} steps); raise budget.{key} above {one * 0.5 / budget.tolerance:.3g} or lower training.batch_size"
        )
    return steps


def _plain(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
