"""A study as its user watches it: the plan, the certificates, one line a run with the time left, the verdict."""

from __future__ import annotations

from typing import Any

from arch_lab.console import console, duration, progress
from arch_lab.report import tables
from arch_lab.report.measures import BITS_PER_BYTE, primary


class Terminal:
    """Observer of a study (see ``engine.compare``). Progress goes to standard error, results to standard output."""

    def __init__(self) -> None:
        self.out, self.notes = console(), console(stderr=True)
        self.bar = progress()
        self.task: Any = None
        self.left = self.total = 0.0  # FLOPs still to train, of this batch of jobs
        self.count = self.done = 0
        self.rates: list[float] = []  # FLOPs a second of the runs done here
        self.base = 0.0
        self.primary = BITS_PER_BYTE

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        getattr(self, f"on_{event}", lambda facts: None)(facts)

    def close(self) -> None:
        self.bar.stop()

    def on_plan(self, plan: dict[str, Any]) -> None:
        self.primary = primary(plan)
        tables.render_plan(plan, self.out)

    def on_data(self, facts: dict[str, Any]) -> None:
        self.notes.print(f"[dim]data: {facts['text']}[/dim]")

    def on_certificate(self, facts: dict[str, Any]) -> None:
        if facts["passed"]:
            lengths = ", ".join(map(str, facts["lengths"]))
            what = {"objective": "no answer in the input", "images": "images apart"}.get(facts.get("kind", ""), "causal")
            self.notes.print(
                f"[green]{what}[/green] {facts['arm']}: worst leak {facts['leak_ratio']:.0e} of the scale (float64, lengths {lengths})"
            )

    def on_widen(self, facts: dict[str, Any]) -> None:
        rates = ", ".join(f"{r:g}" for r in facts["learning_rates"])
        self.notes.print(f"an optimum sits on the edge of the learning-rate grid: adding {rates} for every arm")

    def on_jobs(self, facts: dict[str, Any]) -> None:
        self.count, self.done = len(facts["work"]), 0
        self.total = self.left = sum(facts["work"])
        self.bar.start()
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task("training", total=self.total or 1)

    def on_run(self, facts: dict[str, Any]) -> None:
        self.base = self.total - self.left
        self.bar.update(self.task, description=f"{facts['label']} ({self.done + 1}/{self.count})")

    def on_step(self, facts: dict[str, Any]) -> None:
        self.bar.update(self.task, completed=self.base + facts["work"] * facts["step"] / facts["steps"])

    def on_ran(self, facts: dict[str, Any]) -> None:
        self.rates.append(facts["work"] / max(facts["wall"], 1e-9))
        self._advance(facts, f"{duration(facts['wall'])}, {facts['result']['tokens_per_second']:,.0f} tokens/s")

    def on_kept(self, facts: dict[str, Any]) -> None:
        self._advance(facts, "kept from an earlier call")

    def _advance(self, facts: dict[str, Any], how: str) -> None:
        self.done += 1
        self.left -= facts["work"]
        self.bar.update(self.task, completed=self.total - self.left)
        result = facts["result"]
        score = f"{result[self.primary.key]:.4f} {self.primary.name}" if result["status"] == "finished" else "[red]diverged[/red]"
        recent = sorted(self.rates)[len(self.rates) // 2] if self.rates else 0.0
        left = f"; about {duration(self.left / recent)} left" if recent and self.left > 0 else ""
        self.notes.print(f"[{self.done}/{self.count}] {facts['label']}: {score} ({how}){left}")

    def on_baselines(self, facts: dict[str, Any]) -> None:
        self.bar.stop()
        self.notes.print("[dim]scoring baselines[/dim]")

    def on_report(self, facts: dict[str, Any]) -> None:
        tables.render_results(facts["study"], self.out)
        self.out.print(f"report:       {facts['report']}", soft_wrap=True)
        self.out.print(f"tensorboard:  tensorboard --logdir {facts['folder']}", soft_wrap=True)
