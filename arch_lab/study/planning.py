"""The plan of a study: shapes, parameters, FLOPs, steps and time, printed before anything trains.

Legend: T sequence length, B sequences a step.
``plan`` needs no data: the vocabulary a tokenizer is asked for is the one it must deliver.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import torch

from arch_lab.accounting import Ledger, ledger
from arch_lab.budget import Budget, BudgetError, check, deviations, refuse, solve_together
from arch_lab.judge.measures import to_json
from arch_lab.models import Recipe, Shape, require_kind
from arch_lab.study.code_identity import APART, LOADING, TRAINING, trial_code
from arch_lab.study.config import Arm, StudyConfig, load_study
from arch_lab.study.executor import executor_for
from arch_lab.study.experiment import OwnData, load_experiment, own_engine
from arch_lab.study.initial import initial_facts, initial_warnings, with_initial
from arch_lab.study.library import find_study
from arch_lab.study.loggers import check_loggers
from arch_lab.training.optimizer import groups
from blocks.errors import ConfigError

ESTIMATED, MEASURED = "estimate", "measured"  # where an arm's seconds per step come from
UTILISATION = (
    0.35  # share of the GEMM rate a training step of these sizes reaches on a CPU; for the estimate only
)


def plan(
    study: str,
    *,
    overrides: list[str] | None = None,
    data_root: str | None = None,
    threads: int | None = None,
    executor: str | None = None,
) -> dict[str, Any]:
    """The plan of a study by name or path, without training (``arch-lab plan``). See ``build_plan`` for what it raises."""
    engine = own_engine(study, overrides)
    if engine is not None:
        return engine.plan(study, overrides=overrides or [], data_root=data_root, threads=threads)
    with threads_of_runs(threads):
        planned = build_plan(open_study(study, overrides, data_root))
        return {**planned, "workers": executor_for(planned, executor, None).workers}


def open_study(study: str, overrides: list[str] | None, data_root: str | None) -> StudyConfig:
    """Find, parse and validate a study, its experiment's own options included. Raises: ConfigError."""
    name, path = find_study(study)
    config = with_initial(load_study(path, name=name, overrides=overrides or [], data_root=data_root))
    experiment = load_experiment(config.experiment)
    options = experiment.objective.from_options(config.objective, where=f"study {config.name!r}.objective")
    config = replace(config, objective=asdict(options))
    check_loggers(config.loggers, f"study {config.name!r}.loggers")
    return experiment.resolve(config) if isinstance(experiment, OwnData) else config


@contextmanager
def threads_of_runs(threads: int | None) -> Iterator[None]:
    """Inside, torch uses the threads of a run: ``threads`` where given; else 1 on a CPU, what torch chooses on a GPU.

    The default is the same for every executor: the number of threads is part of a run's identity.
    """
    before = torch.get_num_threads()
    use_threads(1 if threads is None and not torch.cuda.is_available() else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_threads(threads: int | None) -> None:
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"--threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)


def build_plan(config: StudyConfig, timings: dict[str, float] | None = None) -> dict[str, Any]:
    """The plan as plain JSON values (the documented form of ``arch-lab plan --json``).

    ``timings``: measured seconds of a training step, by arm, for a budget in seconds; arms without are estimated.
    Raises: BudgetError when an arm cannot meet the budget, or when fixed shapes miss it and the study does not say
    ``budget.allow_unmatched``; ConfigError for options that do not fit.
    """
    experiment = load_experiment(config.experiment)
    vocabulary, tokens, batch = (
        experiment.vocabulary(config.data),
        config.training.sequence_length,
        config.training.batch_size,
    )
    sizes = {"vocabulary": vocabulary, "tokens": tokens, "batch": batch}
    causal = None if isinstance(experiment, OwnData) else experiment.causal
    found = solved(config.arms, config.experiment, config.budget, causal=causal, **sizes)
    arms = []
    for arm, (recipe_, shape) in zip(config.arms, found, strict=True):
        model_config = recipe_.config(shape, vocabulary=vocabulary, max_tokens=tokens)
        model = model_config.build("meta")
        book = ledger(model_config, tokens=tokens, batch=batch, model=model)
        facts = _arm(
            config, arm.name, arm.architecture, arm.options, shape, book, model, (timings or {}).get(arm.name)
        )
        apart = APART if arm.initialise_from else (*APART, *LOADING)
        facts["code"] = trial_code([model, recipe_, experiment], also=TRAINING, apart=apart)
        arms.append({**facts, **initial_facts(arm, model, vocabulary)})
    _check_groups(config, arms)
    misses = check(arms, config.budget)
    if misses and not config.budget.allow_unmatched:
        refuse(arms, config.budget)
    return {
        "study": config.name,
        "experiment": config.experiment,
        "measures": to_json(experiment.measures),
        "objective": config.objective,
        "description": config.description,
        "budget": config.budget.to_json(),
        "tolerance": config.budget.tolerance,
        "matched": not misses,
        "override": bool(misses),
        "misses": [asdict(m) for m in misses],
        "vocabulary": vocabulary,
        "sequence_length": tokens,
        "batch_size": batch,
        "training": asdict(config.training),
        "learning_rates": config.learning_rates,
        "seeds": config.seeds,
        "runs": len(arms)
        * (
            len(config.learning_rates) * len(config.grid_seeds)
            + len(set(config.seeds) - set(config.grid_seeds))
        ),
        "arms": arms,
        **_warnings(config, arms),
    }


def solved(
    arms: Sequence[Arm],
    experiment: str,
    budget: Budget,
    *,
    vocabulary: int,
    tokens: int,
    batch: int = 1,
    causal: bool | None = True,
) -> list[tuple[Recipe, Shape]]:
    """Recipe and shape of every arm, found together where an arm does not fix its own.

    ``causal`` None: the experiment has looked at the kind of its arms itself.
    Raises: BudgetError when one cannot meet the budget; ConfigError for an arm of the other direction, or options that do not fit.
    """
    recipes = [arm.recipe() for arm in arms]
    for arm, recipe_ in zip(arms, recipes, strict=True):
        if causal is not None:
            require_kind(
                recipe_, "decoder" if causal else "encoder", f"experiment {experiment!r}, arm {arm.name!r}: "
            )
    free = [recipe_ for arm, recipe_ in zip(arms, recipes, strict=True) if arm.shape is None]
    candidates = iter(
        solve_together(free, budget, vocabulary=vocabulary, max_tokens=tokens, batch=batch) if free else []
    )
    return [
        (recipe_, arm.fixed() or next(candidates).shape) for arm, recipe_ in zip(arms, recipes, strict=True)
    ]


def _check_groups(config: StudyConfig, arms: list[dict[str, Any]]) -> None:
    """Raises: ConfigError for a rule that reaches no parameter of any arm: a group that silently does nothing."""
    reached = {name.removesuffix(", no_decay") for arm in arms for name in arm["optimizer_groups"]}
    for rule in config.training.groups:
        if rule.name not in reached:
            raise ConfigError(
                f"training.groups: {rule.name!r} ({', '.join(rule.match)}) matches no parameter of any arm"
            )


def _warnings(config: StudyConfig, arms: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What a plan warns of: steps that are guessed, and arms trained before; nothing where there is nothing."""
    warnings = initial_warnings(arms)
    if config.budget.seconds is not None and any(arm["calibration"]["source"] != MEASURED for arm in arms):
        warnings.append(
            "budget.seconds: these steps are an estimate; arch-lab compare times real steps of every arm before it trains"
        )
    return {"warnings": warnings} if warnings else {}


def _arm(
    config: StudyConfig,
    name: str,
    architecture: str,
    options: dict[str, Any],
    shape: Shape,
    book: Ledger,
    model: Any,
    timing: float | None = None,
) -> dict[str, Any]:
    tokens_per_step = book.tokens * book.batch
    per_step: dict[str, Fraction | float] = {
        "train_flops": book.training * tokens_per_step,
        "tokens": tokens_per_step,
    }
    calibration: dict[str, Any] = {}
    rows = getattr(model.config.embedding, "vocabulary", 0)  # logits of every token; an image has one answer
    if config.budget.seconds is not None:
        guess = _estimate(book, shape, book.training * tokens_per_step, rows)["seconds_per_run"]
        per_step["seconds"] = guess if timing is None else timing
        calibration = {
            "calibration": {
                "seconds_per_step": per_step["seconds"],
                "source": ESTIMATED if timing is None else MEASURED,
            }
        }
    steps = _steps(config, name, per_step)
    tokens = steps * tokens_per_step
    flops = book.training * tokens
    spent = {
        "parameters": book.parameters,
        "flops_per_token": _plain(book.training),
        "train_flops": _plain(flops),
        "tokens": tokens,
    }
    optimizer_groups = groups(model, weight_decay=config.training.weight_decay, rules=config.training.groups)
    return {
        "name": name,
        "architecture": architecture,
        "options": options,
        "width": shape.width,
        "depth": shape.depth,
        "ffn_width": shape.ffn_width,
        **spent,
        "steps": steps,
        "deviation": deviations({**spent, "steps": steps, **calibration}, config.budget.to_json()),
        "components": [asdict(c) for c in book.components],
        "elementwise_per_token": float(
            Fraction(3 * (book.batch * book.cost.elementwise + book.cost.shared_elementwise), tokens_per_step)
        ),
        "conventions": book.conventions,
        "state_bytes": book.state_bytes,
        "optimizer_groups": {g.name: g.parameters for g in optimizer_groups},
        "estimate": _estimate(book, shape, flops, rows),
        **calibration,
    }


def _steps(config: StudyConfig, name: str, per_step: dict[str, Fraction | float]) -> int:
    """Whole steps that meet the axes of length; between two of them (FLOPs and tokens) the middle. Raises: BudgetError."""
    budget, targets = config.budget, config.budget.length_targets
    wanted = sum(
        (Fraction(target) / Fraction(per_step[axis]) for axis, target in targets.items()), Fraction(0)
    ) / len(targets)
    steps = round(wanted)
    if steps < 1 or (abs(steps / wanted - 1) > budget.tolerance and not budget.allow_unmatched):
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


_rate: float | None = None


def gemm_rate() -> float:
    """Measured float32 GEMM rate, FLOP/s, once a process: what the time estimate is scaled by."""
    global _rate
    if _rate is None:
        _rate = measure_gemm_rate()
    return _rate


def measure_gemm_rate(
    dtype: torch.dtype = torch.float32, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The best of a few square products, with the threads of now."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n = 8192 if device == "cuda" else 768
    a, b = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        start = clock()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return 2 * n**3 / best


def _estimate(book: Ledger, shape: Shape, flops: Fraction, vocabulary: int) -> dict[str, float]:
    """Rough on purpose and labelled so: seconds of one run, bytes of weights, gradients, Adam and activations."""
    weights = 16 * book.parameters["total"]
    logits = 3 * book.batch * book.tokens * vocabulary * 4
    activations = book.batch * book.tokens * shape.depth * (14 * shape.width + 4 * shape.ffn_width) * 4
    return {
        "seconds_per_run": float(flops) / (gemm_rate() * UTILISATION),
        "memory_bytes": float(weights + logits + activations),
    }
