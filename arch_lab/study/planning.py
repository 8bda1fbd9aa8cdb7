"""The plan of a study: shapes, parameters, FLOPs, steps and time, printed before anything trains.

Legend: T sequence length, B sequences a step.
``plan`` needs no data: the vocabulary a tokenizer is asked for is the one it must deliver.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import torch

from arch_lab.accounting import Ledger, ledger
from arch_lab.architecture import Shape, meta_model
from arch_lab.budget import BudgetError, check, refuse, solve_together
from arch_lab.study.config import StudyConfig, load_study
from arch_lab.study.library import find_study
from arch_lab.study.vocabulary import planned_vocabulary
from arch_lab.training.optimizer import groups
from blocks.errors import ConfigError

UTILISATION = 0.35  # share of the GEMM rate a training step of these sizes reaches on a CPU; for the estimate only


def plan(study: str, *, overrides: list[str] | None = None, data_root: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """The plan of a study by name or path, without training (``arch-lab plan``). See ``build_plan`` for what it raises."""
    use_threads(threads)
    return build_plan(open_study(study, overrides, data_root))


def open_study(study: str, overrides: list[str] | None, data_root: str | None) -> StudyConfig:
    """Find, parse and validate a study. Raises: ConfigError."""
    name, path = find_study(study)
    return load_study(path, name=name, overrides=overrides or [], data_root=data_root)


def use_threads(threads: int | None) -> None:
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"--threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)


def build_plan(config: StudyConfig) -> dict[str, Any]:
    """The plan as plain JSON values (the documented form of ``arch-lab plan --json``).

    Raises: BudgetError when an arm cannot meet the budget, or when fixed shapes miss it and the study does not say
    ``budget.allow_unmatched``; ConfigError for options that do not fit.
    """
    vocabulary, tokens, batch = planned_vocabulary(config.data), config.training.sequence_length, config.training.batch_size
    recipes = [arm.recipe() for arm in config.arms]
    shapes: list[Shape | None] = [arm.fixed() for arm in config.arms]
    open_arms = [i for i, shape in enumerate(shapes) if shape is None]
    if open_arms:
        found = solve_together([recipes[i] for i in open_arms], config.budget, vocabulary=vocabulary, max_tokens=tokens)
        for i, candidate in zip(open_arms, found, strict=True):
            shapes[i] = candidate.shape
    arms = []
    for arm, recipe_, shape in zip(config.arms, recipes, shapes, strict=True):
        assert shape is not None
        decoder = recipe_.decoder(shape, vocabulary=vocabulary, max_tokens=tokens)
        arms.append(_arm(config, arm.name, arm.architecture, arm.options, shape, ledger(decoder, tokens=tokens, batch=batch), decoder))
    misses = check(arms, config.budget)
    if misses and not config.budget.allow_unmatched:
        refuse(arms, config.budget)
    return {
        "study": config.name,
        "experiment": config.experiment,
        "description": config.description,
        "budget": {
            "params": config.budget.params,
            "train_flops": config.budget.train_flops,
            "tokens": config.budget.tokens,
            "match_on": config.budget.match_on,
        },
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
        "runs": len(arms) * (len(config.learning_rates) * len(config.grid_seeds) + len(set(config.seeds) - set(config.grid_seeds))),
        "arms": arms,
    }


def _arm(
    config: StudyConfig, name: str, architecture: str, options: dict[str, Any], shape: Shape, book: Ledger, decoder: Any
) -> dict[str, Any]:
    tokens_per_step = book.tokens * book.batch
    steps = _steps(config, name, book.training * tokens_per_step, tokens_per_step)
    tokens = steps * tokens_per_step
    flops = book.training * tokens
    deviation = {"params": config.budget.matched_parameters(book.parameters) / config.budget.params - 1}
    if config.budget.train_flops is not None:
        deviation["train_flops"] = float(flops) / config.budget.train_flops - 1
    else:
        deviation["tokens"] = tokens / (config.budget.tokens or tokens) - 1
    optimizer_groups = groups(meta_model(decoder), weight_decay=config.training.weight_decay)
    return {
        "name": name,
        "architecture": architecture,
        "options": options,
        "width": shape.width,
        "depth": shape.depth,
        "ffn_width": shape.ffn_width,
        "parameters": book.parameters,
        "flops_per_token": _plain(book.training),
        "train_flops": _plain(flops),
        "tokens": tokens,
        "steps": steps,
        "deviation": deviation,
        "components": [asdict(c) for c in book.components],
        "elementwise_per_token": float(Fraction(3 * (book.batch * book.cost.elementwise + book.cost.shared_elementwise), tokens_per_step)),
        "conventions": book.conventions,
        "state_bytes": book.state_bytes,
        "optimizer_groups": {g.name: g.parameters for g in optimizer_groups},
        "estimate": _estimate(book, shape, flops, decoder),
    }


def _steps(config: StudyConfig, name: str, flops_per_step: Fraction, tokens_per_step: int) -> int:
    wanted = (
        Fraction(config.budget.train_flops) / flops_per_step
        if config.budget.train_flops is not None
        else Fraction(config.budget.tokens or 0, tokens_per_step)
    )
    steps = round(wanted)
    if steps < 1 or (abs(steps / wanted - 1) > config.budget.tolerance and not config.budget.allow_unmatched):
        per_step = f"{float(flops_per_step):.3g} FLOPs" if config.budget.train_flops is not None else f"{tokens_per_step:,} tokens"
        key = "train_flops" if config.budget.train_flops is not None else "tokens"
        least = float(flops_per_step) if key == "train_flops" else tokens_per_step
        raise BudgetError(
            f"budget: arm {name!r} spends {per_step} a step, so whole steps cannot meet budget.{key} within {config.budget.tolerance:.1%} "
            f"(nearest: {max(1, steps)} steps); raise budget.{key} above {least * 0.5 / config.budget.tolerance:.3g} or lower training.batch_size"
        )
    return steps


def _plain(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


_rate: float | None = None


def gemm_rate() -> float:
    """Measured float32 GEMM rate, FLOP/s, once a process: what the time estimate is scaled by."""
    global _rate
    if _rate is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        n = 8192 if device == "cuda" else 768
        a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
        best = float("inf")
        for _ in range(4):
            start = time.perf_counter()
            a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        _rate = 2 * n**3 / best
    return _rate


def _estimate(book: Ledger, shape: Shape, flops: Fraction, decoder: Any) -> dict[str, float]:
    """Rough on purpose and labelled so: seconds of one run, bytes of weights, gradients, Adam and activations."""
    weights = 16 * book.parameters["total"]
    logits = 3 * book.batch * book.tokens * decoder.embedding.vocabulary * 4
    activations = book.batch * book.tokens * shape.depth * (14 * shape.width + 4 * shape.ffn_width) * 4
    return {"seconds_per_run": float(flops) / (gemm_rate() * UTILISATION), "memory_bytes": float(weights + logits + activations)}
