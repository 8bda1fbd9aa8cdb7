"""The models of a study with sizes (IsoFLOP): every arm at several sizes for each budget of training FLOPs.

Sizes are nominal `n_eff` (training FLOPs per token / 6). A shape meets one within ``TOLERANCE``, because shapes are
few where models are small and the size is a place on an axis; the training FLOPs of a budget are met as always.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from arch_lab import units
from arch_lab.budget import Budget, BudgetError, check
from arch_lab.judge.regime import Regime
from arch_lab.judge.selection import rounded
from arch_lab.study.config import Arm, TrainingStudyConfig
from arch_lab.study.plan import PlannedArm
from blocks.errors import ConfigError

Planned = Callable[[TrainingStudyConfig, Arm, str], PlannedArm]

TOLERANCE = 0.1  # of a shape's n_eff around the nominal size
LATTICE = 1000  # auto sizes are this times powers of two, so that neighbouring budgets share sizes
AUTO = 3  # sizes of a budget


def task_name(flops: float, budgets: Sequence[float]) -> str:
    """The task of a budget; a study of one budget has one without a name."""
    return units.short(flops, "FLOP", digits=4).replace(" ", "") if len(budgets) > 1 else ""


def sizes_of(config: TrainingStudyConfig) -> dict[float, list[int]]:
    """Budget -> its sizes, ascending. Raises: ConfigError for two that a report could not tell apart."""
    wanted = config.budget.sizes
    assert wanted is not None
    sizes = {
        flops: auto_sizes(flops) if wanted == "auto" else sorted(wanted) for flops in config.budget.points
    }
    names = {task_name(flops, config.budget.points) for flops in sizes}
    labels = [len({_label(size) for size in own}) == len(own) for own in sizes.values()]
    if len(names) < len(sizes) or not all(labels):
        raise ConfigError("budget: train_flops and sizes must differ in their first four digits")
    return sizes


def auto_sizes(flops: float) -> list[int]:
    """Sizes nearest the compute-optimal one: n_eff N with 20 tokens per parameter and 6·N·D FLOPs."""
    best = Regime(size=1.0, tokens=flops / 6).best_size
    middle = round(math.log2(best / LATTICE))
    return [LATTICE * 2 ** max(0, middle + k) for k in range(-(AUTO // 2), AUTO - AUTO // 2)]


def spare_sizes(sizes: Sequence[int], times: int) -> list[int]:
    """Sizes that a widened grid may need, outwards from either edge."""
    if len(sizes) < 2:
        return []  # one size has no edges
    low, high = sizes[1] / sizes[0], sizes[-1] / sizes[-2]
    more = [rounded(sizes[0] / low**k) for k in range(1, times + 1)]
    more += [rounded(sizes[-1] * high**k) for k in range(1, times + 1)]
    return [int(size) for size in more if size >= 100]


def sized_arms(
    config: TrainingStudyConfig, planned: Planned
) -> tuple[dict[str, tuple[PlannedArm, ...]], dict[str, tuple[int, ...]]]:
    """Arm -> its models at every budget and size, spare ones included; and task -> its sizes.

    ``planned(config, arm, name)``: the model of an arm at the one budget and size of ``config``.
    Raises: BudgetError for a size that no shape meets; ConfigError for an arm with a shape of its own.
    """
    for arm in config.arms:
        if arm.shape is not None:
            raise ConfigError(
                f"arm {arm.name!r} has a shape of its own, and budget.sizes asks for several; remove one of them"
            )
    _check_budgets(config)
    sizes = sizes_of(config)
    every = {
        arm.name: tuple(
            model for flops, own in sizes.items() for model in _models(config, arm, flops, own, planned)
        )
        for arm in config.arms
    }
    tasks = {task_name(flops, config.budget.points): tuple(own) for flops, own in sizes.items()}
    unfit = {
        model.name + task
        for task, own in tasks.items()
        for model in models_of(every, task)
        if model.size not in own and _is_off(model, every, task, own, config.budget)
    }
    models = {
        arm: tuple(m for m in own if m.name + (m.tasks[0] if m.tasks else "") not in unfit)
        for arm, own in every.items()
    }
    return models, tasks


def _is_off(
    spare: PlannedArm,
    models: Mapping[str, Sequence[PlannedArm]],
    task: str,
    sizes: Sequence[int],
    budget: Budget,
) -> bool:
    """Whether a spare model would miss the budget or another model, so that no study could add it."""
    planned = [model for model in models_of(models, task) if model.size in sizes]
    known = {miss.text for miss in check(planned, budget)}
    return any(miss.text not in known for miss in check([*planned, spare], budget))


def _check_budgets(config: TrainingStudyConfig) -> None:
    """Raises: ConfigError for options that contradict the number of budgets."""
    several, where = len(config.budget.points) > 1, f"study {config.name!r}"
    if config.search is not None and config.search.keep is not None and not several:
        raise ConfigError(
            f"{where}.search: keep is about the next budget, and budget.train_flops is only one"
        )
    if several and config.training.schedule == "wsd" and config.training.warmup_tokens is None:
        raise ConfigError(
            f"{where}.training: budgets of one wsd trunk share its warm-up; add warmup_tokens, its length"
        )


def _models(
    config: TrainingStudyConfig, arm: Arm, flops: float, sizes: Sequence[int], planned: Planned
) -> list[PlannedArm]:
    task = task_name(flops, config.budget.points)
    models = []
    for size in [*sizes, *spare_sizes(sizes, config.widen)]:
        name = f"{arm.name} {_label(size)}"
        at = replace(config, budget=config.budget.at(flops, size), arms=[arm])
        try:
            model = planned(at, arm, name)
        except BudgetError as error:
            if size in sizes:
                raise BudgetError(f"budget.sizes {_label(size)}: {error}") from None
            continue
        _check_trunk(config, model)
        models.append(replace(model, size=size, tasks=(task,) if task else None))
    return models


def _check_trunk(config: TrainingStudyConfig, model: PlannedArm) -> None:
    """Raises: ConfigError where the warm-up reaches into the decay: budgets of a trunk would not share it."""
    training, steps, several = config.training, model.steps or 0, len(config.budget.points) > 1
    stable = steps - round(training.decay_fraction * steps)
    if training.schedule == "wsd" and several and (training.warmup_steps or 0) > stable:
        raise ConfigError(
            f"training.warmup_tokens: {model.name} has {steps} steps, and its rate falls from step {stable} on, "
            f"before the warm-up of {training.warmup_steps} steps is over; lower it"
        )


def _label(size: float) -> str:
    return units.short(size, digits=4)


def models_of(models: Mapping[str, Sequence[PlannedArm]], task: str) -> list[PlannedArm]:
    """All models of a task."""
    return [model for own in models.values() for model in own if model.applies_to(task)]
