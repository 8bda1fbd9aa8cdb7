"""The training stages of a study: tune (every arm at every rate), widen the grid where an optimum sits on its edge, run.

Every arm gets the same rates and the same number of runs: equal effort by construction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arch_lab import files
from arch_lab.judge.records import Record
from arch_lab.judge.selection import select, wider
from arch_lab.study.config import StudyConfig
from arch_lab.study.executor import Executor
from arch_lab.study.experiment import Experiment, load_experiment
from arch_lab.study.loggers import TrialNames
from arch_lab.study.run import train
from arch_lab.study.spec import RunSpec, spec_of
from arch_lab.study.storage import stored_result
from arch_lab.study.trial_loggers import TrialLoggers
from blocks.errors import UserError

Observer = Callable[[str, dict[str, Any]], None]
Results = dict[tuple[str, float, int], dict[str, Any]]  # (arm, learning rate, seed) -> stored result


@dataclass
class TrainingContext:
    """What the runs of a study need (executor.Context): its configuration and folders, and the data once opened."""

    config: StudyConfig
    folder: Path
    cache: Path
    fingerprint: str  # of the data
    data: Any = None
    experiment: Experiment = field(init=False)

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the data again: they are memory maps."""
        return {**self.__dict__, "data": None, "experiment": None}

    def open(self) -> None:
        """Load the experiment, and the data where they are not given. Raises: UserError when other data are there now."""
        self.experiment = load_experiment(self.config.experiment)
        if self.data is None:
            self.data = self.experiment.prepare(self.config, self.cache, lambda text: None)
        if self.data.fingerprint != self.fingerprint:
            raise UserError(
                f"study {self.config.name!r}: its data changed while it trained; run the same command again"
            )

    def run(self, trial: RunSpec, observer: Observer) -> dict[str, Any]:
        """Train one run and store its result."""
        where = files.inside(self.folder, trial.folder(self.folder))
        names = TrialNames(self.folder, self.config.name, where.relative_to(self.folder / "runs").as_posix())
        return train(
            trial,
            where,
            self.data,
            self.experiment,
            loggers=TrialLoggers(self.config.loggers, names),
            progress=lambda step, loss: observer("step", {"step": step, "steps": trial.steps, "loss": loss}),
            tell=lambda text: observer("note", {"text": text}),
        )


class Training:
    """The runs of one study: what is stored is kept, the others go to the executor."""

    def __init__(
        self, planned: dict[str, Any], context: TrainingContext, executor: Executor, observer: Observer
    ) -> None:
        self.arms, self.context, self.executor, self.observer = planned["arms"], context, executor, observer
        self.config, self.data = context.config, context.data
        self.results: Results = {}

    def train_all(self) -> tuple[list[dict[str, Any]], list[float]]:
        """Every arm at every rate, the grid widened for all arms while any optimum sits on its edge; then the other seeds."""
        config = self.config
        rates = more = sorted(config.learning_rates)
        for attempt in range(config.widen + 1):
            self._train(
                [
                    self._spec(arm, rate, seed)
                    for arm in self.arms
                    for rate in more
                    for seed in config.grid_seeds
                ]
            )
            more = wider(rates, list(self._selected().values()))
            if not more or attempt == config.widen:
                break
            self.observer("widen", {"learning_rates": more})
            rates = sorted([*rates, *more])
        remaining = [seed for seed in config.seeds if seed not in config.grid_seeds]
        if remaining:
            selected = self._selected()
            chosen = [arm for arm in self.arms if arm["name"] in selected]
            self._train(
                [self._spec(arm, selected[arm["name"]], seed) for arm in chosen for seed in remaining]
            )
        return list(self.results.values()), rates

    def _spec(self, arm: dict[str, Any], rate: float, seed: int) -> RunSpec:
        return spec_of(arm, rate, seed, self.config, self.data.vocabulary)

    def _selected(self) -> dict[str, float]:
        measures = self.context.experiment.measures
        records = [Record.of_run(result, measures) for result in self.results.values()]
        return select(records, [arm["name"] for arm in self.arms], measures[0])

    def _train(self, specs: list[RunSpec]) -> None:
        """Run one batch; results are kept in the order of ``specs``, whatever order they end in."""
        done: dict[int, dict[str, Any]] = {}
        facts = [
            {"label": spec.label, "work": spec.steps * spec.flops_per_token, "steps": spec.steps}
            for spec in specs
        ]
        self.observer("jobs", {"work": [f["work"] for f in facts], "workers": self.executor.workers})
        for i, spec in enumerate(specs):
            where = files.inside(self.context.folder, spec.folder(self.context.folder))
            stored = stored_result(where, spec.identity(self.data.fingerprint))
            if stored is not None:
                done[i] = stored
                self.observer("kept", {**facts[i], "result": stored})
        waiting = [i for i in range(len(specs)) if i not in done]
        started: dict[int, float] = {}

        def observe(event: str, event_facts: dict[str, Any]) -> None:
            i = waiting[event_facts.get("index", running[0])]
            if event == "run":
                running[0] = event_facts["index"]
                started[i] = time.monotonic()
            self.observer(event, {**facts[i], **event_facts})

        running = [0]
        for index, result in self.executor.run([specs[i] for i in waiting], self.context, observe):
            i = waiting[index]
            done[i] = result
            self.observer("ran", {**facts[i], "result": result, "wall": time.monotonic() - started[i]})
        for i, spec in enumerate(specs):
            self.results[(spec.arm, spec.learning_rate, spec.seed)] = done[i]
