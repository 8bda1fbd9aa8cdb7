"""A study as its user watches it.

The plan, the certificates, one line per trial with the time left, the verdict.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from arch_lab import units
from arch_lab.console import console, progress, say
from arch_lab.judge.records import DIVERGED, Record
from arch_lab.laws.certificate import certificate_line
from arch_lab.report.printed import render_plan, render_results
from arch_lab.report.time_left import TimeLeft
from arch_lab.stored import Facts
from arch_lab.study.plan import Plan
from arch_lab.study.study import Study

SILENCE = 10.0  # seconds between two lines on preparing data where nothing can be overwritten


class Terminal:
    """Observer of a study. Progress goes to standard error, results to standard output.

    In a terminal live lines stand at the bottom: the trials that run, and the study. Finished trials scroll
    by above them.
    """

    def __init__(self) -> None:
        self.out, self.bar = console(), progress()
        self.notes = self.bar.console  # one console for lines and bars, or they would run into each other
        self.lines: list[Any] = []  # live lines of what happens now: one per trial at a time
        self.all: Any = None  # live line of the study, below them
        self.count = self.done = 0  # trials of the whole study
        self.kept_trials = 0  # trials of an earlier call that are not mentioned yet
        self.workers, self.tokens_per_step = 1, 0
        self.line_of: dict[str, int] = {}  # label of a running trial -> number of its live line
        self.began: dict[str, float] = {}
        self.time_left = TimeLeft()
        self.spoken = 0.0

    def __call__(self, event: str, facts: Facts) -> None:
        """An event whose method is missing is not shown; each method takes the facts it needs."""
        getattr(self, f"on_{event}", lambda **facts: None)(**facts)

    def close(self) -> None:
        self.bar.stop()

    # --- live lines -----------------------------------------------------------------------------------------

    def show(
        self,
        name: str,
        facts: Sequence[str] = (" ",),
        *,
        done: float = 0.0,
        total: float | None = None,
        line: int = 0,
    ) -> None:
        """The live line of what happens now; ``line`` where several things do."""
        while len(self.lines) <= line:
            self.bar.start()
            self.lines.append(self.bar.add_task(name, total=total, facts=list(facts)))
        task = self.lines[line]
        self.bar.update(task, description=name, completed=done, total=total, facts=list(facts), visible=True)

    def show_all(self) -> None:
        """The live line of the whole study."""
        left = self.time_left.seconds()
        facts = [f"{self.done}/{self.count}", *([f"about {units.duration(left)} left"] if left else [])]
        if self.all is None:
            self.bar.start()
            self.all = self.bar.add_task("trials", clock=True, facts=facts)
        self.bar.update(self.all, completed=self.done, total=self.count or 1, facts=facts)

    def hide(self) -> None:
        """No live lines: what comes next goes to standard output."""
        for task in (*self.lines, *([] if self.all is None else [self.all])):
            self.bar.remove_task(task)
        self.lines, self.all = [], None
        self.bar.stop()

    def note(self, *parts: str | tuple[str, str]) -> None:
        """A line that stays, above the live ones."""
        say(self.notes, *parts)

    def mention_kept(self) -> None:
        """Trials of an earlier call are mentioned together."""
        if self.kept_trials:
            first = self.done - self.kept_trials + 1
            span = f"{first}/{self.count}" if self.kept_trials == 1 else f"{first}-{self.done}/{self.count}"
            self.note(f"[{span}] kept from an earlier call")
        self.kept_trials = 0

    # --- events ---------------------------------------------------------------------------------------------

    def on_plan(self, *, plan: Plan, workers: int, **_: Any) -> None:
        self.hide()
        self.count, self.workers = plan.trials, workers
        self.tokens_per_step = (plan.sequence_length or 0) * (plan.batch_size or 0)
        render_plan(plan, self.out, workers)

    def on_data(self, *, text: str, **_: Any) -> None:
        """Preparing data is many short lines: the live one where there is one, else one now and then."""
        self.mention_kept()
        self.show(f"preparing: {text}")
        if not self.notes.is_terminal and time.monotonic() - self.spoken > SILENCE:
            self.spoken = time.monotonic()
            self.note(f"preparing: {text}")

    def on_note(self, *, text: str, **_: Any) -> None:
        self.note(text)

    def on_certificate(self, *, arm: str, passed: bool, **certificate: Any) -> None:
        if passed:
            self.note(f"{arm}: ", ("certified", "green"), f": {certificate_line(certificate)}")

    def on_widen(
        self, *, task: str, learning_rates: Sequence[float], sizes: Sequence[int] = (), **_: Any
    ) -> None:
        head = f"{task}: " if task else ""
        for values, grid in ((learning_rates, "learning-rate grid"), (sizes, "grid of sizes")):
            added = ", ".join(f"{value:g}" for value in values)
            if added:
                self.note(f"{head}an optimum is at the edge of the {grid}: adding {added} for every arm")

    def on_jobs(
        self,
        *,
        labels: Sequence[str],
        work: Sequence[float],
        workers: int,
        after: int,
        later: float = 0.0,
        later_trials: int = 0,
        **_: Any,
    ) -> None:
        """A batch of trials: the grid, what was added to it, or the other seeds of the chosen rates."""
        self.mention_kept()
        self.workers, self.count = workers, self.done + len(work) + after + later_trials
        self.time_left.batch(labels, work, workers, after, later)
        if len(self.lines) < workers:  # before the line of the study, which comes last
            self.hide()
            for line in range(workers):
                self.show("waiting", line=line)
                self.bar.update(self.lines[line], visible=line == 0)
        self.show_all()

    def on_run(self, *, label: str, **_: Any) -> None:
        self.mention_kept()
        busy = {line for other, line in self.line_of.items() if other != label}
        self.line_of[label] = next(i for i in range(len(busy) + 1) if i not in busy)
        self.began[label] = time.monotonic()
        self.time_left.start(label)
        self.show(label, line=self.line_of[label])

    def on_step(self, *, label: str, step: int, steps: int, loss: float | None = None, **_: Any) -> None:
        self.time_left.step(label, step / max(1, steps))
        speed = step * self.tokens_per_step / max(time.monotonic() - self.began.get(label, 0.0), 1e-9)
        words = [f"{step:,}/{steps:,} steps"] if step < steps else ["scoring"]
        words += [f"{units.short(speed)} tokens/s"] if self.tokens_per_step else []
        words += [] if loss is None else [f"loss {loss:.3f}"]
        self.show(label, words, done=step, total=steps, line=self.line_of.get(label, 0))

    def on_detail(self, *, label: str, text: str, **_: Any) -> None:
        self.show(label, text.split(", "), line=self.line_of.get(label, 0))

    def on_ran(self, *, label: str, wall: float, records: Sequence[Record], text: str, **_: Any) -> None:
        line = self.line_of.pop(label, 0)
        if self.line_of and line < len(self.lines):
            self.bar.update(self.lines[line], visible=False)
        self.time_left.end(label, wall)
        self.mention_kept()
        self.done += 1
        left = (
            None if self.notes.is_terminal else self.time_left.seconds()
        )  # a terminal has a live line for it
        ending = f"; about {units.duration(left)} left" if left and left >= 1 else ""
        outcome = ("diverged", "red") if records[0].status == DIVERGED else text
        self.note(f"[{self.done}/{self.count}] {label}: ", outcome, f" ({units.duration(wall)}){ending}")
        self.show_all()

    def on_kept(self, *, label: str, **_: Any) -> None:
        self.time_left.skip(label)
        self.done += 1
        self.kept_trials += 1
        self.show_all()

    def on_baselines(self, **_: Any) -> None:
        self.mention_kept()
        self.show("scoring baselines")

    def on_report(self, *, study: Study, report: str, folder: str, **_: Any) -> None:
        self.mention_kept()
        self.hide()
        say(self.out)
        render_results(study, self.out)
        say(self.out, f"report:       {report}", whole=True)
        say(self.out, f"tensorboard:  tensorboard --logdir {folder}", whole=True)
