"""A throughput study as its user watches it: the plan, the certificates, a line a group with the time left, the tables."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from arch_lab.console import duration, table
from arch_lab.report import units
from arch_lab.report.cells import show
from arch_lab.study import terminal
from arch_lab.throughput import tables
from arch_lab.throughput.timing import MEASURED


class Terminal(terminal.Terminal):
    """Observer of a throughput study. Progress goes to standard error, results to standard output."""

    def on_plan(self, plan: dict[str, Any]) -> None:
        render_plan(plan, self.out)

    def on_groups(self, facts: dict[str, Any]) -> None:
        self.total = self.left = sum(facts["work"])
        self.count, self.done, self.work_timed, self.started = len(facts["work"]), 0, 0.0, time.monotonic()
        self.bar.start()
        self.task = self.bar.add_task("timing", total=self.total or 1)

    def on_group(self, facts: dict[str, Any]) -> None:
        self.bar.update(self.task, description=f"{facts['label']} ({self.done + 1}/{self.count})")

    def on_timed(self, facts: dict[str, Any]) -> None:
        rows = facts["rows"]
        speeds = ", ".join(f"{r['arm']} {units.short(r['tokens_per_second']) if r['status'] == MEASURED else r['status']}" for r in rows)
        self.work_timed += facts["work"]
        rate = (time.monotonic() - self.started) / self.work_timed if self.work_timed else 0.0
        left = self.left - facts["work"]
        self._move(facts, f"{speeds} tokens/s" + (f"; about {duration(left * rate)} left" if left > 1e-6 * self.total else ""))

    def on_kept(self, facts: dict[str, Any]) -> None:
        self._move(facts, "kept from an earlier call")

    def _move(self, facts: dict[str, Any], how: str) -> None:
        self.done += 1
        self.left -= facts["work"]
        self.bar.update(self.task, completed=self.total - self.left)
        self.notes.print(f"[{self.done}/{self.count}] {facts['label']}: {how}", markup=False)

    def on_report(self, facts: dict[str, Any]) -> None:
        self.bar.stop()
        render_results(facts["study"], self.out)
        self.out.print(f"report:       {facts['report']}", soft_wrap=True)
        self.out.print(f"tensorboard:  tensorboard --logdir {facts['folder']}/tensorboard", soft_wrap=True)


def render_plan(plan: Mapping[str, Any], console: Console) -> None:
    """Shapes and what will be timed; nothing has been timed but one matrix product."""
    console.print(
        f"[bold]{plan['study']}[/bold]: {units.budget_words(plan['budget'])} within {100 * plan['tolerance']:g} %", highlight=False
    )
    show(tables.arms(plan), console)
    lengths: dict[tuple[str, str, bool], list[int]] = {}
    seconds: dict[tuple[str, str, bool], float] = {}
    for group in plan["groups"]:
        key = (group["level"], group["mode"], group["compiled"])
        lengths.setdefault(key, []).append(group["tokens"])
        seconds[key] = seconds.get(key, 0.0) + group["estimate_seconds"]
    rows = [
        [f"{key[0]} {key[1]}{' compiled' if key[2] else ''}", ", ".join(f"{t:,}" for t in at), duration(seconds[key])]
        for key, at in lengths.items()
    ]
    console.print(table(["timed", "sequence lengths", "about"], rows, numeric=["about"]))
    console.print(
        f"{plan['cells']} cells; about {duration(sum(seconds.values()))} in all, a rough estimate; no cell takes much more than "
        f"{plan['cell_seconds']:g} s for its arm",
        highlight=False,
    )


def render_results(study: Mapping[str, Any], console: Console) -> None:
    from rich.panel import Panel
    from rich.text import Text

    for found in tables.all_tables(study):
        show(found, console)
    for line in study["warnings"]:
        console.print(f"warning: {line}", markup=False, highlight=False, style="yellow")
    console.print(Panel(Text(study["verdict"]["text"]), title="verdict", title_align="left", border_style="bold"))
