"""A study over tasks as its user watches it: the plan, a line a fit with the time left, the tables, the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from arch_lab.console import duration
from arch_lab.report import units
from arch_lab.report.cells import show
from arch_lab.study import terminal
from arch_lab.tasks import tables
from arch_lab.tasks.results import measures_of


class Terminal(terminal.Terminal):
    """Observer of a study over tasks. Progress goes to standard error, results to standard output."""

    walls: list[float]

    def on_plan(self, plan: dict[str, Any]) -> None:
        self.names = {task["name"]: measures_of(task)[0] for task in plan["tasks"]}
        render_plan(plan, self.out)

    def on_cells(self, facts: dict[str, Any]) -> None:
        self.count, self.done, self.walls = facts["count"], 0, []
        self.bar.start()
        self.task = self.bar.add_task("fitting", total=self.count)

    def on_widen(self, facts: dict[str, Any]) -> None:
        self.count += facts["count"]
        self.bar.update(self.task, total=self.count)
        rates = ", ".join(f"{r:g}" for r in facts["learning_rates"])
        self.notes.print(f"{facts['task']}: an optimum sits on the edge of the learning-rate grid: adding {rates} for every method")

    def on_fit(self, facts: dict[str, Any]) -> None:
        self.bar.update(self.task, description=f"{facts['label']} ({self.done + 1}/{self.count})")

    def on_detail(self, facts: dict[str, Any]) -> None:
        self.bar.update(self.task, description=f"{facts['label']}, {facts['text']} ({self.done + 1}/{self.count})")

    def on_fitted(self, facts: dict[str, Any]) -> None:
        self.walls.append(facts["wall"])
        left = (self.count - self.done - 1) * sum(self.walls) / len(self.walls)
        self._move(facts, duration(facts["wall"]), f"; about {duration(left)} left" if left >= 1 else "")

    def on_kept(self, facts: dict[str, Any]) -> None:
        self._move(facts, "kept from an earlier call", "")

    def _move(self, facts: dict[str, Any], how: str, left: str) -> None:
        row, self.done = facts["row"], self.done + 1
        judged = self.names[row["task"]]
        score = f"{row['scores'][judged.key]:.4f} {judged.name}" if row["status"] == "finished" else "diverged"
        self.bar.update(self.task, completed=self.done)
        self.notes.print(f"[{self.done}/{self.count}] {facts['label']}: {score} ({how}){left}", markup=False)

    def on_report(self, facts: dict[str, Any]) -> None:
        self.bar.stop()
        render_results(facts["study"], self.out)
        self.out.print(f"report:       {facts['report']}", soft_wrap=True)
        self.out.print(f"tensorboard:  tensorboard --logdir {facts['folder']}", soft_wrap=True)


def render_plan(plan: Mapping[str, Any], console: Console) -> None:
    """What will be fitted; nothing has been."""
    console.print(f"[bold]{plan['study']}[/bold]: {len(plan['methods'])} methods on {len(plan['tasks'])} tasks", highlight=False)
    show(tables.methods(plan), console)
    show(tables.tasks(plan), console)
    rates = ", ".join(map(units.rate, plan["learning_rates"]))
    seeds = f"seeds {', '.join(map(str, plan['seeds']))}"
    console.print(f"fits: {plan['cells']} (learning rates {rates}; {seeds}; every seed at every rate only where it tunes)", highlight=False)


def render_results(study: Mapping[str, Any], console: Console) -> None:
    from rich.panel import Panel
    from rich.text import Text

    for found in tables.all_tables(study):
        show(found, console)
    for line in study["warnings"]:
        console.print(f"warning: {line}", markup=False, highlight=False, style="yellow")
    for line in study["notes"]:
        console.print(line, markup=False, highlight=False)
    console.print(Panel(Text(study["verdict"]["text"]), title="verdict", title_align="left", border_style="bold"))
