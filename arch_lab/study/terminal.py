"""A study as its user watches it: the plan, the certificates, one line per run with the time left, the verdict."""

from __future__ import annotations

import time
from typing import Any

from arch_lab.console import console, duration, progress, say, si
from arch_lab.judge.measures import BITS_PER_BYTE, primary
from arch_lab.laws.certificate import certificate_line
from arch_lab.report import tables

SILENCE = 10.0  # seconds between two lines on preparing data where nothing can be overwritten


class Terminal:
    """Observer of a study (see ``engine.compare``). Progress goes to standard error, results to standard output.

    In a terminal two live lines stand at the bottom: the run of now and the study. Finished runs scroll by above them.
    """

    unit = "runs"

    def __init__(self) -> None:
        self.out, self.bar = console(), progress()
        self.notes = self.bar.console  # one console for lines and bars, or they would run into each other
        self.lines: list[Any] = []  # live lines of what happens now: one, or one per run at a time
        self.all: Any = None  # live line of the study, below them
        self.count = self.done = self.kept = (
            0  # runs of the whole study; those found finished, not yet mentioned
        )
        self.total = self.left = 0.0  # FLOPs of the whole study
        self.rates: list[float] = []  # FLOPs per second of the runs done here
        self.workers = 1  # runs at a time
        self.running: dict[
            str, tuple[int, float]
        ] = {}  # label of a run -> number of its live line, when it began
        self.tokens_per_step = 0
        self.spoken = 0.0
        self.widened = False
        self.primary = BITS_PER_BYTE

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        getattr(self, f"on_{event}", lambda facts: None)(facts)

    def close(self) -> None:
        self.bar.stop()

    # --- live lines ---------------------------------------------------------------------------------------------------

    def show(
        self,
        name: str,
        facts: list[str],
        *,
        completed: float = 0.0,
        total: float | None = None,
        line: int = 0,
    ) -> None:
        """The live line of what happens now; ``line`` where several things do."""
        while len(self.lines) <= line:
            self.bar.start()
            self.lines.append(self.bar.add_task(name, total=total, facts=facts))
        self.bar.update(
            self.lines[line], description=name, completed=completed, total=total, facts=facts, visible=True
        )

    def show_all(self) -> None:
        """The live line of the whole study."""
        facts = [f"{self.done}/{self.count}"]
        left = self.seconds_left()
        facts += [f"about {duration(left)} left"] if left else []
        if self.all is None:
            self.bar.start()
            self.all = self.bar.add_task(self.unit, clock=True, facts=facts)
        self.bar.update(self.all, completed=self.total - self.left, total=self.total or 1, facts=facts)

    def hide(self) -> None:
        """No live lines: what comes next goes to standard output."""
        for task in (*self.lines, *([] if self.all is None else [self.all])):
            self.bar.remove_task(task)
        self.lines, self.all = [], None
        self.bar.stop()

    def note(self, *parts: str | tuple[str, str]) -> None:
        """A line that stays, above the live ones."""
        say(self.notes, *parts)

    def seconds_left(self) -> float:
        """0 when unknown."""
        recent = sorted(self.rates)[len(self.rates) // 2] if self.rates else 0.0
        return self.left / (recent * self.workers) if recent and self.left > 1e-6 * self.total else 0.0

    def finish(self, label: str, what: str | tuple[str, str], how: str) -> None:
        """Count one run and write its line."""
        self.say_kept()
        self.done += 1
        left = 0 if self.notes.is_terminal else self.seconds_left()  # a terminal has a live line for it
        self.note(
            f"[{self.done}/{self.count}] {label}: ",
            what,
            f" ({how})" + (f"; about {duration(left)} left" if left >= 1 else ""),
        )
        self.show_all()

    def keep(self) -> None:
        """Count one run that an earlier call finished; all of them are mentioned together."""
        self.done += 1
        self.kept += 1
        self.show_all()

    def say_kept(self) -> None:
        if self.kept:
            first = self.done - self.kept + 1
            span = f"{first}/{self.count}" if self.kept == 1 else f"{first}-{self.done}/{self.count}"
            self.note(f"[{span}] kept from an earlier call")
        self.kept = 0

    # --- events -------------------------------------------------------------------------------------------------------

    def on_plan(self, plan: dict[str, Any]) -> None:
        self.hide()
        self.primary = primary(plan)
        self.count = plan["runs"]
        self.tokens_per_step = plan["sequence_length"] * plan["batch_size"]
        tables.render_plan(plan, self.out)

    def on_data(self, facts: dict[str, Any]) -> None:
        """Preparing data is many short lines: the live one where there is one, else one now and then."""
        self.show(f"preparing: {facts['text']}", [" "])
        if not self.notes.is_terminal and time.monotonic() - self.spoken > SILENCE:
            self.spoken = time.monotonic()
            self.note(f"preparing: {facts['text']}")

    def on_note(self, facts: dict[str, Any]) -> None:
        self.note(facts["text"])

    def on_certificate(self, facts: dict[str, Any]) -> None:
        if facts["passed"]:
            self.note(f"{facts['arm']}: ", ("certified", "green"), f": {certificate_line(facts)}")

    def on_widen(self, facts: dict[str, Any]) -> None:
        rates = ", ".join(f"{r:g}" for r in facts["learning_rates"])
        self.widened = True
        self.note(f"an optimum is at the edge of the learning-rate grid: adding {rates} for every arm")

    def on_jobs(self, facts: dict[str, Any]) -> None:
        """A batch of runs: the grid, what was added to it, or the other seeds of the chosen rates."""
        self.say_kept()
        jobs, self.workers = len(facts["work"]), facts.get("workers", 1)
        if self.widened:
            self.count += jobs
        elif self.done:
            self.count = self.done + jobs  # the last batch: an arm without a usable rate has no runs in it
        self.widened = False
        after = max(0, self.count - self.done - jobs)
        work = sum(facts["work"]) * (1 + after / jobs if jobs else 1)
        if len(self.lines) < self.workers:  # before the line of the study, which comes last
            self.hide()
            for line in range(self.workers):
                self.show("waiting", [" "], line=line)
                self.bar.update(self.lines[line], visible=line == 0)
        self.total, self.left = self.total - self.left + work, work
        self.show_all()

    def on_run(self, facts: dict[str, Any]) -> None:
        self.say_kept()
        busy = {line for line, _ in self.running.values()}
        line = next(i for i in range(len(busy) + 1) if i not in busy)
        self.running[facts["label"]] = (line, time.monotonic())
        self.show(facts["label"], [f"0/{facts['steps']:,} steps"], total=facts["steps"], line=line)

    def on_step(self, facts: dict[str, Any]) -> None:
        step, steps = facts["step"], facts["steps"]
        line, began = self.running[facts["label"]]
        speed = step * self.tokens_per_step / max(time.monotonic() - began, 1e-9)
        words = [f"{step:,}/{steps:,} steps"] if step < steps else ["scoring"]
        words += [f"{si(speed)} tokens/s"] if self.tokens_per_step else []
        words += [f"loss {facts['loss']:.3f}"] if facts.get("loss") is not None else []
        self.show(facts["label"], words, completed=step, total=steps, line=line)

    def on_ran(self, facts: dict[str, Any]) -> None:
        line, _ = self.running.pop(facts["label"])
        if self.running:
            self.bar.update(self.lines[line], visible=False)
        self.rates.append(facts["work"] / max(facts["wall"], 1e-9))
        self.left -= facts["work"]
        result = facts["result"]
        finished = result["status"] == "finished"
        score = f"{result[self.primary.key]:.4f} {self.primary.name}" if finished else ("diverged", "red")
        self.finish(
            facts["label"], score, f"{duration(facts['wall'])}, {result['tokens_per_second']:,.0f} tokens/s"
        )

    def on_kept(self, facts: dict[str, Any]) -> None:
        self.left -= facts["work"]
        self.keep()

    def on_baselines(self, facts: dict[str, Any]) -> None:
        self.say_kept()
        self.show("scoring baselines", [" "])

    def on_report(self, facts: dict[str, Any]) -> None:
        self.say_kept()
        self.hide()
        say(self.out)
        self.render(facts["study"])
        say(self.out, f"report:       {facts['report']}", whole=True)
        say(self.out, f"tensorboard:  tensorboard --logdir {self.events(facts['folder'])}", whole=True)

    def render(self, study: dict[str, Any]) -> None:
        tables.render_results(study, self.out)

    def events(self, folder: str) -> str:
        """Folder of the TensorBoard events."""
        return folder
