"""A plan and a study on a console.

The same tables as on the page, the verdict last, where a reader of a terminal looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from arch_lab import units
from arch_lab.console import say, show_verdict
from arch_lab.judge.records import is_finite
from arch_lab.report.contents import planned_sections, sections
from arch_lab.report.section import Section
from arch_lab.study.experiment import load_experiment
from arch_lab.study.plan import Plan
from arch_lab.study.study import Study

if TYPE_CHECKING:
    from rich.console import Console


def render_plan(plan: Plan, console: Console, workers: int = 1) -> None:
    """What will be run, and roughly for how long. ``workers``: trials at a time."""
    _head(plan, console)
    further = list(load_experiment(plan.experiment).sections(plan))
    for section in (*planned_sections(plan, further), *further):
        _show_tables([section], console)
        for line in section.text if section in further else ():
            say(console, line)
    if plan.learning_rates:
        say(console)
        say(console, _trials_line(plan))
    if plan.has_models and plan.seeds and not plan.has_tasks:
        say(console, detectable_line(plan))
    seconds = estimated_seconds(plan)
    if seconds is not None:
        say(console, f"time: about {units.duration(seconds / max(1, workers))} in all, a rough estimate")
    _warnings(plan, console)


def estimated_seconds(plan: Plan) -> float | None:
    """Of all trials, one after the other; None where a model has no estimate. Budgets share the trunks of WSD."""
    total, per_task = 0.0, plan.trials / len(plan.tasks) / len(plan.arms)
    for task in plan.tasks:
        models = [model for model in plan.models if model.applies_to(task.name)]
        times = [model.estimate.seconds_per_trial for model in models if model.estimate is not None]
        if not times or len(times) < len(models) or not all(map(is_finite, times)):
            return None
        trials = per_task
        if plan.sizes:
            trials = plan.tuning_trials(task.name) + len(plan.seeds) - len(plan.tuning_seeds)
        total += sum(times) / len(times) * trials * len(plan.arms_of(task.name))
    return total


def render_results(study: Study, console: Console) -> None:
    """Every table of a study, its warnings and notes, then the verdict."""
    _head(study, console)
    _show_tables(sections(study), console)
    say(console)
    _warnings(study, console)
    for line in study.notes:
        say(console, line)
    show_verdict(console, study.verdict.lines)


def _head(plan: Plan, console: Console) -> None:
    budget = units.budget_words(plan.budget) if plan.budget else ""
    budget += f" within {100 * plan.tolerance:g} %" if plan.budget and plan.tolerance is not None else ""
    counts = f"{units.counted(len(plan.arms), 'arm')} on {units.counted(len(plan.tasks), 'task')}"
    say(console, (plan.study, "bold"), f": {budget or counts}")
    if not plan.matched:
        say(console, ("budgets NOT matched", "bold red"), ": differences may come from size or compute")
        for miss in plan.misses:
            say(console, (f"  {miss.text}", "red"))


def _show_tables(groups: Iterable[Section], console: Console) -> None:
    for section in groups:
        for table in () if section.page_only else section.tables:
            table.show(console)


def detectable_line(plan: Plan) -> str:
    """The smallest difference that the study can find, before anything trains."""
    seeds, noise = len(plan.seeds), plan.noise
    if noise is None:
        return (
            "detectable: unknown, for no A/A control of this experiment is on file (control: true trains one)"
        )
    effect = noise.detectable(seeds)
    if effect is None:
        return "detectable: nothing with one seed"
    places = units.decimals(effect)
    return (
        f"detectable: differences of {effect:.{places}f} {noise.measure} or more, with {seeds} seeds and a power of "
        f"80 % (noise of the A/A control in {noise.source})"
    )


def _trials_line(plan: Plan) -> str:
    rates = ", ".join(map(units.rate, plan.learning_rates))
    how = (
        f"arms {len(plan.arms)}, learning rates {len(plan.learning_rates)} ({rates}), seeds {len(plan.seeds)}"
    )
    if plan.has_tasks:
        return f"trials: {plan.trials} ({how}; every seed at every rate only where it tunes)"
    fewer = plan.trials < len(plan.arms) * len(plan.learning_rates) * len(plan.seeds)
    return f"trials: {plan.trials} ({how}{'; not every seed at every rate' if fewer else ''})"


def _warnings(plan: Plan, console: Console) -> None:
    for line in plan.warnings:
        say(console, ("warning:", "yellow"), f" {line}")
