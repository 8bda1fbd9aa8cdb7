"""The trials of a study: tune (every arm at every rate), widen the grid where an optimum sits on its edge, run the other seeds.

Every arm gets the same rates and the same number of trials: equal effort by construction.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path

from arch_lab import files
from arch_lab.judge.records import Record
from arch_lab.judge.selection import select, wider
from arch_lab.signals import raising_signals
from arch_lab.stored import Facts, Json
from arch_lab.study import storage
from arch_lab.study.config import StudyConfig, TunedStudyConfig
from arch_lab.study.executor import Executor
from arch_lab.study.experiment import load_experiment
from arch_lab.study.open_study import OpenStudy
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.trial import Job, Observer, Trial
from arch_lab.training.saving import CHECKPOINT, discard
from blocks.errors import UserError


@dataclass
class StudyContext:
    """What the trials of a study need (executor.Context): its configuration, plan and folders, and the study once opened."""

    config: StudyConfig
    plan: Plan
    folder: Path
    cache: Path
    fingerprints: dict[str, str]  # task -> of its data
    opened: OpenStudy | None = field(default=None, repr=False)

    def __getstate__(self) -> Json:
        """Another process opens the study and its data again."""
        return {**self.__dict__, "opened": None}

    def open(self) -> None:
        """Open the study and its data where that is not done. Raises: UserError when other data are there now."""
        if self.opened is None:
            self.opened = load_experiment(self.config.experiment).open(self.config)
            self.opened.planned = self.plan
            self.opened.prepare(self.plan, self.cache, lambda text: None)
        if any(self.opened.fingerprint(task) != value for task, value in self.fingerprints.items()):
            raise UserError(
                f"study {self.config.name!r}: its data changed while it trained; run the same command again"
            )

    def run(self, trial: Trial, observer: Observer) -> Json:
        """Run one trial and store its result; one that is stored already is returned."""
        assert self.opened is not None
        folder = files.inside(self.folder, trial.folder(self.folder))
        identity = self.opened.identity(trial)
        stored = storage.stored_result(folder, identity, self.opened.noun)
        if stored is not None:
            return stored
        loggers = self.config.loggers if isinstance(self.config, TunedStudyConfig) else []
        job = Job(trial, self.config.name, folder, self.folder, observer, loggers)
        try:
            storage.begin_run(folder, identity, job.note)
            with raising_signals():
                outcome = self.opened.run(trial, job)
            records = [outcome] if isinstance(outcome, Record) else outcome
            result = storage.write_result(folder, records, identity)
        except OSError as error:
            raise files.cannot_write(folder, error) from None
        discard(folder / CHECKPOINT)
        if job.failure is not None:
            raise job.failure
        return result


class Stages:
    """The trials of one study: what is stored is kept, the others go to the executor."""

    def __init__(self, context: StudyContext, executor: Executor, observer: Observer) -> None:
        assert context.opened is not None
        self.opened, self.plan, self.context = context.opened, context.plan, context
        self.executor, self.observer = executor, observer
        self.results: dict[Trial, Json] = {}
        self.rates = {task.name: sorted(self.plan.learning_rates) for task in self.plan.tasks}

    def run_all(self) -> list[Record]:
        """Records of all trials, task by task, in the order in which they were planned."""
        others = [seed for seed in self.plan.seeds if seed not in self.plan.tuning_seeds]
        others += self.plan.control_seeds
        tuned = sum(len(self._tuned(task)) for task in self.rates)
        self._run([trial for task in self.rates for trial in self._first(task)], after=tuned * len(others))
        for _ in range(self.plan.widen):
            added = [trial for task in self.rates for trial in self._widened(task)]
            if not added:
                break
            self._run(added, after=tuned * len(others))
        if others:
            self._run([trial for task in self.rates for trial in self._other_seeds(task, others)], after=0)
        return self.records()

    def records(self) -> list[Record]:
        """Of all trials so far, task by task."""
        trials = [trial for task in self.rates for trial in self.results if trial.task == task]
        return [record for trial in trials for record in storage.records_of(self.results[trial])]

    def selected(self, task: str) -> dict[str, float]:
        """Arm -> the learning rate that its records on the tune split choose."""
        records = [record for record in self.records() if record.task == task]
        return select(records, [arm.name for arm in self.plan.arms_of(task)], self.plan.task(task).primary)

    def _tuned(self, task: str) -> list[PlannedArm]:
        return [arm for arm in self.plan.arms_of(task) if arm.tuned] if self.plan.learning_rates else []

    def _first(self, task: str) -> list[Trial]:
        """All trials of a task that has nothing to choose; else arms without a rate, then the grid."""
        fixed = self.opened.trials(task)
        if fixed is not None:
            return fixed
        seeds = self.plan.seeds
        untuned = [
            Trial(task=task, arm=arm.name, seed=seed)
            for arm in self.plan.arms_of(task)
            if not arm.tuned
            for seed in (seeds if arm.seeded else seeds[:1])
        ]
        return untuned + self._grid(task, self.rates[task])

    def _grid(self, task: str, rates: Sequence[float]) -> list[Trial]:
        return [
            Trial(task=task, arm=arm.name, learning_rate=rate, seed=seed)
            for arm in self._tuned(task)
            for rate in rates
            for seed in self.plan.tuning_seeds
        ]

    def _widened(self, task: str) -> list[Trial]:
        """Trials at one more rate at each edge where an arm has its optimum."""
        if not self._tuned(task):
            return []
        more = wider(self.rates[task], list(self.selected(task).values()))
        if more:
            self.observer("widen", {"task": task, "learning_rates": more})
        self.rates[task] = sorted([*self.rates[task], *more])
        return self._grid(task, more)

    def _other_seeds(self, task: str, seeds: Sequence[int]) -> list[Trial]:
        chosen_rates = self.selected(task)
        return [
            Trial(task=task, arm=arm.name, learning_rate=chosen_rates[arm.name], seed=seed)
            for arm in self._tuned(task)
            if arm.name in chosen_rates
            for seed in seeds
        ]

    def _run(self, trials: Sequence[Trial], *, after: int) -> None:
        """Run one batch; results are kept in the order of ``trials``, whatever order they end in.

        ``after``: how many trials are sure to follow this batch.
        """
        results: dict[Trial, Json] = {}
        facts = {trial: self._facts(trial) for trial in trials}
        work = [self.opened.work(trial) for trial in trials]
        labels = [trial.label for trial in trials]
        batch = {"labels": labels, "work": work, "workers": self.executor.workers, "after": after}
        self.observer("jobs", batch)
        for trial in trials:
            folder = files.inside(self.context.folder, trial.folder(self.context.folder))
            stored = storage.stored_result(folder, self.opened.identity(trial), self.opened.noun)
            if stored is not None:
                results[trial] = stored
                self.observer("kept", {**facts[trial], "records": storage.records_of(stored)})
        waiting = by_turns([trial for trial in trials if trial not in results])
        started: dict[int, float] = {}
        current = [0]  # trial of an executor that does not say which one an event is of

        def observe(event: str, details: Facts) -> None:
            index = details.get("index", current[0])
            if event == "run":
                current[0] = index
                started[index] = time.monotonic()
            self.observer(event, {**facts[waiting[index]], **details})

        for index, result in self.executor.run(waiting, self.context, observe):
            trial, wall = waiting[index], time.monotonic() - started[index]
            results[trial] = result
            records = storage.records_of(result)
            text = self.opened.outcome(records, self.plan)
            self.observer("ran", {**facts[trial], "records": records, "wall": wall, "text": text})
        self.results |= {trial: results[trial] for trial in trials}

    def _facts(self, trial: Trial) -> Facts:
        return {"label": trial.label, "arm": trial.arm, "work": self.opened.work(trial)}


def by_turns(trials: Sequence[Trial]) -> list[Trial]:
    """The first trial of every arm, then the second of every arm, and so on: the time left needs the speed of each arm."""
    turns = Counter[tuple[str, str]]()
    order = []
    for trial in trials:
        order.append(turns[trial.task, trial.arm])
        turns[trial.task, trial.arm] += 1
    return [trial for _, trial in sorted(zip(order, trials, strict=True), key=itemgetter(0))]
