"""A study over tasks as its user watches it: the plan, a line a fit with the time left, the tables, the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from arch_lab import units
from arch_lab.console import duration, say, show_verdict
from arch_lab.report.cells import show
from arch_lab.study import terminal
from arch_lab.tasks import tables
from arch_lab.tasks.results import measures_of
from arch_lab.units import counted


class Terminal(terminal.Terminal):
    """Observer of a study over tasks. Progress goes to standard error, results to standard output."""

    unit = "fits"

    def on_plan(self, plan: dict[str, Any]) -> None:
        self.hide()
        self.names = {task["name"]: measures_of(task)[0] for task in plan["tasks"]}
        render_plan(plan, self.out)

    def on_cells(self, facts: dict[str, Any]) -> None:
        self.count = facts["count"]
        self.total = self.left = float(self.count)
        self.show_all()

    def on_widen(self, facts: dict[str, Any]) -> None:
        self.count += facts["count"]
        self.total, self.left = self.total + facts["count"], self.left + facts["count"]
        rates = ", ".join(f"{r:g}" for r in facts["learning_rates"])
        self.note(
            f"{facts['task']}: an optimum is at the edge of the learning-rate grid: adding {rates} for every method"
        )

    def on_fit(self, facts: dict[str, Any]) -> None:
        self.say_kept()
        self.show(facts["label"], [" "])

    def on_detail(self, facts: dict[str, Any]) -> None:
        self.show(facts["label"], facts["text"].split(", "))

    def on_fitted(self, facts: dict[str, Any]) -> None:
        self.rates.append(1 / max(facts["wall"], 1e-9))
        self.left -= 1
        row = facts["row"]
        judged = self.names[row["task"]]
        score = (
            f"{row['scores'][judged.key]:.4f} {judged.name}"
            if row["status"] == "finished"
            else ("diverged", "red")
        )
        self.finish(facts["label"], score, duration(facts["wall"]))

    def on_kept(self, facts: dict[str, Any]) -> None:
        self.left -= 1
        self.keep()

    def seconds_left(self) -> float:
        """By the mean of the fits done here: baselines take a second, methods minutes."""
        return self.left * sum(1 / rate for rate in self.rates) / len(self.rates) if self.rates else 0.0

    def render(self, study: dict[str, Any]) -> None:
        render_results(study, self.out)


def render_plan(plan: Mapping[str, Any], console: Console) -> None:
    """What will be fitted; nothing has been."""
    counts = f"{counted(len(plan['methods']), 'method')} on {counted(len(plan['tasks']), 'task')}"
    say(console, (str(plan["study"]), "bold"), f": {counts}")
    show(tables.methods(plan), console)
    show(tables.tasks(plan), console)
    rates = ", ".join(map(units.rate, plan["learning_rates"]))
    seeds = f"seeds {', '.join(map(str, plan['seeds']))}"
    say(console)
    say(
        console,
        f"fits: {plan['cells']} (learning rates {rates}; {seeds}; every seed at every rate only where it tunes)",
    )


def render_results(study: Mapping[str, Any], console: Console) -> None:
    for found in tables.all_tables(study):
        show(found, console)
    say(console)
    for line in study["warnings"]:
        say(console, (f"warning: {line}", "yellow"))
    for line in study["notes"]:
        say(console, line)
    show_verdict(console, study["verdict"]["text"])
