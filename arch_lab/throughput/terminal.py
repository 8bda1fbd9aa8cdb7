"""A throughput study as its user watches it: the plan, the certificates, a line a group with the time left, the tables."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from arch_lab import units
from arch_lab.console import duration, say, show_verdict, table
from arch_lab.report.cells import show
from arch_lab.study import terminal
from arch_lab.throughput import tables
from arch_lab.throughput.timing import MEASURED


class Terminal(terminal.Terminal):
    """Observer of a throughput study. Progress goes to standard error, results to standard output."""

    unit = "groups"

    def on_plan(self, plan: dict[str, Any]) -> None:
        self.hide()
        render_plan(plan, self.out)

    def on_groups(self, facts: dict[str, Any]) -> None:
        self.total = self.left = sum(facts["work"])
        self.count, self.clock, self.work_timed = len(facts["work"]), time.monotonic(), 0.0
        self.show_all()

    def on_group(self, facts: dict[str, Any]) -> None:
        self.say_kept()
        self.show(facts["label"], [" "])

    def on_timed(self, facts: dict[str, Any]) -> None:
        rows = facts["rows"]
        speeds = ", ".join(
            f"{r['arm']} {units.short(r['tokens_per_second']) if r['status'] == MEASURED else r['status']}"
            for r in rows
        )
        self.work_timed += facts["work"]
        self.left -= facts["work"]
        elapsed = time.monotonic() - self.clock
        self.rates = [self.work_timed / max(elapsed, 1e-9)]
        self.finish(facts["label"], speeds, "tokens/s")

    def on_kept(self, facts: dict[str, Any]) -> None:
        self.left -= facts["work"]
        self.keep()

    def render(self, study: dict[str, Any]) -> None:
        render_results(study, self.out)

    def events(self, folder: str) -> str:
        return f"{folder}/tensorboard"


def render_plan(plan: Mapping[str, Any], console: Console) -> None:
    """Shapes and what will be timed; nothing has been timed but one matrix product."""
    say(
        console,
        (str(plan["study"]), "bold"),
        f": {units.budget_words(plan['budget'])} within {100 * plan['tolerance']:g} %",
    )
    show(tables.arms(plan), console)
    say(console)
    lengths: dict[tuple[str, str, bool], list[int]] = {}
    seconds: dict[tuple[str, str, bool], float] = {}
    for group in plan["groups"]:
        key = (group["level"], group["mode"], group["compiled"])
        lengths.setdefault(key, []).append(group["tokens"])
        seconds[key] = seconds.get(key, 0.0) + group["estimate_seconds"]
    rows = [
        [
            f"{key[0]} {key[1]}{' compiled' if key[2] else ''}",
            ", ".join(f"{t:,}" for t in at),
            duration(seconds[key]),
        ]
        for key, at in lengths.items()
    ]
    console.print(table(["timed", "sequence lengths", "about"], rows, numeric=["about"]))
    say(console)
    say(
        console,
        f"{plan['cells']} cells; about {duration(sum(seconds.values()))} in all, a rough estimate; no cell takes much more than "
        f"{plan['cell_seconds']:g} s for its arm",
    )


def render_results(study: Mapping[str, Any], console: Console) -> None:
    for found in tables.all_tables(study):
        show(found, console)
    say(console)
    for line in study["warnings"]:
        say(console, (f"warning: {line}", "yellow"))
    show_verdict(console, study["verdict"]["text"])
