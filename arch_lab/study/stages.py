"""The training stages of a study: tune (every arm at every rate), widen the grid where an optimum sits on its edge, run.

Every arm gets the same rates and the same number of runs: equal effort by construction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arch_lab import files
from arch_lab.judge.records import Record
from arch_lab.judge.selection import select, wider
from arch_lab.study.config import StudyConfig
from arch_lab.study.experiment import Experiment
from arch_lab.study.loggers import TrialNames
from arch_lab.study.run import train
from arch_lab.study.spec import spec_of
from arch_lab.study.storage import stored_result
from arch_lab.study.trial_loggers import TrialLoggers

Observer = Callable[[str, dict[str, Any]], None]


def train_all(
    planned: dict[str, Any], config: StudyConfig, folder: Path, data: Any, experiment: Experiment, observer: Observer
) -> tuple[list[dict[str, Any]], list[float]]:
    """Every arm at every rate, the grid widened for all arms while any optimum sits on its edge; then the other seeds."""
    arms = [a["name"] for a in planned["arms"]]
    rates = sorted(config.learning_rates)
    results: dict[tuple[str, float, int], dict[str, Any]] = {}
    primary = experiment.measures[0]

    def records() -> list[Record]:
        return [Record.of_run(result, experiment.measures) for result in results.values()]

    jobs = [(a, r, s) for a in planned["arms"] for r in rates for s in config.grid_seeds]
    _run_jobs(jobs, results, config, folder, data, experiment, observer)
    for _ in range(config.widen):
        more = wider(rates, list(select(records(), arms, primary).values()))
        if not more:
            break
        observer("widen", {"learning_rates": more})
        rates = sorted([*rates, *more])
        _run_jobs(
            [(a, r, s) for a in planned["arms"] for r in more for s in config.grid_seeds],
            results,
            config,
            folder,
            data,
            experiment,
            observer,
        )
    rest = [s for s in config.seeds if s not in config.grid_seeds]
    if rest:
        chosen = select(records(), arms, primary)
        jobs = [(a, chosen[a["name"]], s) for a in planned["arms"] for s in rest if chosen.get(a["name"]) is not None]
        _run_jobs(jobs, results, config, folder, data, experiment, observer)
    return list(results.values()), rates


def _run_jobs(
    jobs: list[tuple[dict[str, Any], float, int]],
    results: dict[tuple[str, float, int], dict[str, Any]],
    config: StudyConfig,
    folder: Path,
    data: Any,
    experiment: Experiment,
    observer: Observer,
) -> None:
    specs = [spec_of(arm, rate, seed, config, data.vocabulary) for arm, rate, seed in jobs]
    observer("jobs", {"work": [spec.steps * spec.flops_per_token for spec in specs], "labels": [spec.label for spec in specs]})
    for spec in specs:
        where = files.inside(folder, spec.folder(folder))
        kept = stored_result(where, spec.identity(data.fingerprint))
        facts = {"label": spec.label, "work": spec.steps * spec.flops_per_token, "steps": spec.steps}
        if kept is None:
            observer("run", facts)
            started = time.monotonic()
            work = spec.flops_per_token

            def progress(step: int, loss: float | None, facts: dict[str, Any] = facts) -> None:
                observer("step", {**facts, "step": step, "loss": loss})

            names = TrialNames(folder, config.name, where.relative_to(folder / "runs").as_posix())
            result = train(
                spec,
                where,
                data,
                experiment,
                loggers=TrialLoggers(config.loggers, names),
                progress=progress,
                tell=lambda text: observer("note", {"text": text}),
            )
            observer("ran", {**facts, "result": result, "wall": time.monotonic() - started, "flops_per_token": work})
        else:
            result = kept
            observer("kept", {**facts, "result": result})
        results[(spec.arm, spec.learning_rate, spec.seed)] = result
