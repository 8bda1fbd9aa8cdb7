"""The plan of a throughput study: shapes matched at one length, and groups with an estimate.

Nothing is timed but one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from arch_lab.accounting import Ledger, ledger
from arch_lab.budget import check, deviations, refuse
from arch_lab.judge.measures import Measure, Task
from arch_lab.models import Recipe, Shape
from arch_lab.study.code_identity import trial_code
from arch_lab.study.config import Arm
from arch_lab.study.estimate import UTILISATION, gemm_rate
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.planning import solved
from experiments.throughput.config import (
    DECODING,
    LEAST_REPEATS,
    Group,
    PlannedGroup,
    PlanSettings,
    ThroughputConfig,
)
from experiments.throughput.contenders import Settings
from experiments.throughput.timing import Timer
from experiments.throughput.work import canonical_flops

TOKENS_PER_SECOND = Measure(
    key="tokens_per_second",
    name="tokens per second",
    short="tokens/s",
    higher_is_better=True,
    meaning="Tokens of a call over the median of its seconds.",
)
MILLISECONDS = Measure(
    key="ms",
    name="milliseconds",
    short="ms",
    meaning="Median time of one call, of decoding: of all its tokens.",
)
MEASURES = (TOKENS_PER_SECOND, MILLISECONDS)


def planned_arms(config: ThroughputConfig) -> tuple[PlannedArm, ...]:
    """Every arm at its solved shape.

    Raises: BudgetError when one cannot meet the budget; ConfigError for options that do not fit.
    """
    shapes = solved(
        config.arms,
        config.experiment,
        config.budget.for_solver(),
        vocabulary=config.vocabulary,
        tokens=config.match_length,
    )
    return tuple(
        _arm(config, arm, recipe, shape) for arm, (recipe, shape) in zip(config.arms, shapes, strict=True)
    )


def _arm(config: ThroughputConfig, arm: Arm, recipe: Recipe, shape: Shape) -> PlannedArm:
    costs = _costs(config, recipe, shape, config.match_length)
    model = recipe.config(shape, vocabulary=config.vocabulary, max_tokens=config.match_length).build("meta")
    at_lengths = {
        str(tokens): _costs(config, recipe, shape, tokens).parameters["total"]
        for tokens in sorted(config.lengths)
    }
    return PlannedArm(
        name=arm.name,
        tuned=False,
        seeded=False,
        architecture=arm.architecture,
        options=arm.options,
        **asdict(shape),
        parameters=costs.parameters,
        facts={"parameters_at": at_lengths},
        code=trial_code([model, recipe], also=[(Timer.__module__, Timer.__name__)]),
        deviation=deviations(config.budget.to_json(), parameters=costs.parameters, spent={}),
        components=costs.components,
    )


def _costs(config: ThroughputConfig, recipe: Recipe, shape: Shape, tokens: int) -> Ledger:
    model = recipe.config(shape, vocabulary=config.vocabulary, max_tokens=tokens)
    return ledger(model, tokens=tokens, batch=1)


def build_plan(config: ThroughputConfig, arms: Sequence[PlannedArm]) -> Plan:
    """Every group is a task, timed by one trial. Raises: BudgetError when a fixed shape misses the budget."""
    budget = config.budget.for_solver()
    misses = check(arms, budget)
    if misses and not budget.allow_unmatched:
        refuse(arms, budget)
    groups = [
        PlannedGroup(**group.to_json(), estimate_seconds=estimated_seconds(config, arms, group))
        for group in config.groups()
    ]
    return Plan(
        study=config.name,
        experiment=config.experiment,
        description=config.description,
        tasks=tuple(Task(name=group.slug, measures=MEASURES, facts=group.to_json()) for group in groups),
        arms=tuple(arms),
        budget=config.budget.to_json(),
        tolerance=config.budget.tolerance,
        matched=not misses,
        override=bool(misses),
        misses=tuple(misses),
        vocabulary=config.vocabulary,
        settings=_settings(config, groups).to_json(),
        trials=len(groups),
    )


def _settings(config: ThroughputConfig, groups: Sequence[PlannedGroup]) -> PlanSettings:
    return PlanSettings(
        subject=config.subject,
        match_length=config.match_length,
        tokens_per_step=config.tokens_per_step,
        decode_tokens=config.decode_tokens,
        repeats=config.repeats,
        cell_seconds=config.cell_seconds,
        dtype=config.dtype,
        groups=tuple(groups),
    )


def estimated_seconds(config: ThroughputConfig, arms: Sequence[PlannedArm], group: Group) -> float:
    """Rough seconds of a group.

    FLOPs over a share of the GEMM rate, as often as the time of a cell allows. A call that decodes costs
    1/64 of a prefill.
    """
    settings, seconds = Settings.of(config), 0.0
    prompt = replace(group, mode="prefill") if group.mode in DECODING else group
    for arm in arms:
        flops = canonical_flops(settings.decoder(arm, group), prompt)
        assert flops is not None
        call = flops / (gemm_rate() * UTILISATION)
        if group.mode == "decode":
            call = max(call / 64, 1e-3 * config.decode_tokens)
        calls = min(config.repeats + 2, max(LEAST_REPEATS + 1, config.cell_seconds / call))
        seconds += min(calls * call, config.cell_seconds * (LEAST_REPEATS + 1))
    return seconds
