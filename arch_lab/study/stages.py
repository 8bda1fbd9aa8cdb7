"""The trials of a study: tune (every arm at every choice), widen the grid where an optimum sits on its edge, run the other seeds.

Every arm gets the same choices and the same number of trials: equal effort by construction.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path

from arch_lab import files
from arch_lab.judge.records import Choice, Record
from arch_lab.judge.selection import ranked, select
from arch_lab.signals import raising_signals
from arch_lab.stored import Facts, Json
from arch_lab.study import storage
from arch_lab.study.choices import Choices
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

    def __init__(
        self,
        context: StudyContext,
        executor: Executor,
        observer: Observer,
        certify: Callable[[Sequence[PlannedArm]], None] = lambda models: None,
    ) -> None:
        """``certify(models)``: what a model that was not planned for must pass before it trains."""
        assert context.opened is not None
        self.certify = certify
        self.opened, self.plan, self.context = context.opened, context.plan, context
        self.executor, self.observer = executor, observer
        self.results: dict[Trial, Json] = {}
        self._later, self._later_trials = 0.0, 0  # work and number of the trials of later budgets
        self.choices = {task.name: Choices(self.plan, task.name) for task in self.plan.tasks}

    def run_all(self) -> list[Record]:
        """Records of all trials, task by task, in the order in which they were planned.

        Tasks run together; budgets one after the other, the smallest first: a larger one goes on from its trunks.
        """
        names = list(self.choices)
        passes = [[name] for name in names] if self.plan.sizes else [names]
        for position, tasks in enumerate(passes):
            if position:
                self._keep_best(passes[position - 1][0], tasks[0])
            self._pass(tasks, later=[name for after in passes[position + 1 :] for name in after])
        return self.records()

    def _pass(self, tasks: Sequence[str], later: Sequence[str]) -> None:
        others = [seed for seed in self.plan.seeds if seed not in self.plan.tuning_seeds]
        others += self.plan.control_seeds
        self._later = sum(self._planned_work(task, len(others)) for task in later)
        self._later_trials = sum(self._planned_trials(task, len(others)) for task in later)
        after = sum(len(self._tuned(task)) for task in tasks) * len(others)
        self._run([trial for task in tasks for trial in self._first(task)], after=after)
        for _ in range(self.plan.widen):
            added = [trial for task in tasks for trial in self._widened(task)]
            if not added:
                break
            self._run(added, after=after)
        if others:
            self._run([t for task in tasks for t in self._other_seeds(task, others)], after=0)

    def _planned_work(self, task: str, others: int) -> float:
        """FLOPs of all trials of a later budget, without what its trunks save."""
        work = [float(model.train_flops or 0) for model in self.plan.models if model.applies_to(task)]
        each = sum(work) / max(1, len(work))
        return each * self._planned_trials(task, others)

    def _planned_trials(self, task: str, others: int) -> int:
        return len(self._tuned(task)) * (self.plan.tuning_trials(task) + others)

    def _keep_best(self, before: str, task: str) -> None:
        """Settle which settings of each arm go on from one budget to the next: the best on the tune split at any size."""
        keep = self.plan.grid.keep
        if keep is None:
            return
        choices, records = self.choices[before], [r for r in self.records() if r.task == before]
        for arm in self._tuned(task):
            tuned: dict[Choice, dict[int, float | None]] = {}
            for record in records:
                if record.arm == arm.name and record.seed in self.plan.tuning_seeds:
                    tuned.setdefault(record.choice, {})[record.seed] = record.tuning_score
            best = ranked(tuned, self.plan.task(before).primary)
            settings = list(dict.fromkeys(choices.setting(choice) for choice in best))
            self.choices[task].kept[arm.name] = settings[:keep]
        self.choices[task].rates = list(choices.rates)  # which may have grown

    def grown(self) -> Plan:
        """The plan with the rates and sizes that were tried in the end."""
        rates = {rate for choices in self.choices.values() for rate in choices.rates}
        sizes = {task: tuple(s for s in c.sizes if s is not None) for task, c in self.choices.items()}
        grid = replace(self.plan.grid, sizes=sizes) if self.plan.sizes else self.plan.grid
        return replace(self.plan, learning_rates=tuple(sorted(rates)), grid=grid)

    def records(self) -> list[Record]:
        """Of all trials so far, task by task."""
        trials = [trial for task in self.choices for trial in self.results if trial.task == task]
        return [record for trial in trials for record in storage.records_of(self.results[trial])]

    def selected(self, task: str) -> dict[str, Choice]:
        """Arm -> what its records on the tune split choose."""
        records = [record for record in self.records() if record.task == task]
        return select(records, [arm.name for arm in self.plan.arms_of(task)], self.plan.task(task).primary)

    def _tuned(self, task: str) -> list[PlannedArm]:
        arms = [arm for arm in self.plan.arms_of(task) if arm.tuned]
        return arms if self.plan.learning_rates or self.plan.grid.draws else []

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
        return untuned + self._grid(
            task, {arm.name: self.choices[task].of(arm.name) for arm in self._tuned(task)}
        )

    def _grid(self, task: str, choices: Mapping[str, Sequence[Choice]]) -> list[Trial]:
        return [
            Trial(task=task, arm=arm, seed=seed, **choice.to_json())
            for arm, own in choices.items()
            for choice in own
            for seed in self.plan.tuning_seeds
        ]

    def _widened(self, task: str) -> list[Trial]:
        """Trials at one more rate and size at each edge where an arm has its optimum."""
        if not self._tuned(task):
            return []
        choices = self.choices[task]
        before, sizes = list(choices.rates), list(choices.sizes)
        added = choices.widen(self.selected(task))
        if added:
            rates = [rate for rate in choices.rates if rate not in before]
            more = [size for size in choices.sizes if size not in sizes]
            self.observer("widen", {"task": task, "learning_rates": rates, "sizes": more})
            for size in more:
                self.certify([self.plan.model(arm, size, task) for arm in added])
        return self._grid(task, added)

    def _other_seeds(self, task: str, seeds: Sequence[int]) -> list[Trial]:
        selected = self.selected(task)
        return [
            Trial(task=task, arm=arm.name, seed=seed, **selected[arm.name].to_json())
            for arm in self._tuned(task)
            if arm.name in selected
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
        batch |= {"later": self._later, "later_trials": self._later_trials}
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
