"""The engine of studies over tasks: plan -> fit every cell -> choose -> judge -> report; finished cells of an earlier call are kept.

Task by task: every method at every rate for the tuning seeds, the grid widened for all methods while an optimum sits on its edge,
then the other seeds at the rate each method chose. A cell is kept by the hash of what determines it: a changed configuration, code
or data is refused, never mixed. A kill costs the cell it struck, because a fit is minutes at most.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from arch_lab import files, sealed
from arch_lab.judge.measures import to_json
from arch_lab.judge.records import Record
from arch_lab.judge.selection import select, wider
from arch_lab.study import storage
from arch_lab.study.code_identity import conditions, texts, trial_code
from arch_lab.study.config import from_study, plain
from arch_lab.study.engine import Observer, cache_folder, command_of, followed
from arch_lab.study.environment import environment, judge_fingerprint
from arch_lab.study.identity import digest
from arch_lab.study.library import find_study
from arch_lab.study.loggers import TrialNames, check_loggers, try_loggers
from arch_lab.study.planning import use_threads
from arch_lab.study.study_file import read_study
from arch_lab.tasks import results
from arch_lab.tasks.contract import Cell, Fitted, Method, Prepared, Task, TaskExperiment, TaskStudyConfig
from blocks.config import Config


class TaskEngine:
    """A StudyEngine (arch_lab.study.experiment) around one TaskExperiment."""

    def __init__(self, experiment: TaskExperiment) -> None:
        self.experiment = experiment
        self.config: type[Config] = experiment.config

    def plan(
        self, study: str, *, overrides: list[str], data_root: str | None, threads: int | None
    ) -> dict[str, Any]:
        use_threads(threads)
        config = self._config(study, overrides, data_root)
        return plan(config, self.experiment.open(config, cache_folder(), lambda line: None))

    def compare(
        self,
        study: str,
        *,
        overrides: list[str],
        output: str | Path,
        data_root: str | None,
        threads: int | None,
        observer: Observer | None,
    ) -> dict[str, Any]:
        if observer is None:
            from arch_lab.tasks.terminal import Terminal

            given: dict[str, Any] = {
                "overrides": overrides,
                "output": output,
                "data_root": data_root,
                "threads": threads,
            }
            return followed(Terminal(), lambda terminal: self.compare(study, **given, observer=terminal))
        use_threads(threads)
        config = self._config(study, overrides, data_root)
        folder = Path(output) / config.name
        with files.folder_lock(folder, "arch-lab compare"):
            refuse_changed(config, folder)
            prepared = self.experiment.open(
                config, cache_folder(), lambda line: observer("data", {"text": line})
            )
            return Study(config, prepared, folder, observer).run(command_of(study, overrides, data_root))

    def render_plan(self, plan: dict[str, Any], console: Any) -> None:
        from arch_lab.tasks.terminal import render_plan

        render_plan(plan, console)

    def report(self, folder: Path) -> Path:
        from arch_lab.tasks.page import write

        return write(folder)

    def markdown(self, folder: Path) -> str:
        from arch_lab.report.cells import readme
        from arch_lab.tasks.page import load
        from arch_lab.tasks.tables import all_tables

        study = load(folder)
        return readme(study, all_tables(study))

    def _config(self, study: str, overrides: list[str], data_root: str | None) -> TaskStudyConfig:
        name, path = find_study(study)
        content = read_study(path, name=name, overrides=overrides)
        if data_root is not None:
            content["root"] = data_root
        config = from_study(self.experiment.config, content, name)
        check_loggers(config.loggers, f"study {name!r}.loggers")
        return config


def refuse_changed(config: TaskStudyConfig, folder: Path) -> None:
    """Raises: OutputError, before any data are read, for other settings than those of what is stored, or for a smaller study."""
    before, now = storage.stored_config(folder), plain(asdict(config))
    if before is None:
        return
    storage.refuse_smaller(folder, before, now, ("tasks", "learning_rates", "seeds"))
    old, new = (
        {"settings": {k: v for k, v in side.items() if k not in config.CHOOSES}} for side in (before, now)
    )
    if digest(old) != digest(new) and any((folder / "runs").glob("*/*/*/result.json")):
        raise files.OutputError(storage.refusal(folder, old, new, "fits"))


def plan(config: TaskStudyConfig, prepared: Prepared) -> dict[str, Any]:
    """What would be fitted, as plain JSON values."""
    tasks, methods = prepared.tasks, prepared.methods
    cells = 0
    for task in tasks:
        for method in methods:
            if _applies(method, task):
                extra = len([s for s in config.seeds if s not in config.grid_seeds])
                cells += (
                    len(_seeds(config, method))
                    if not method.tuned
                    else len(config.learning_rates) * len(config.grid_seeds) + extra
                )
    return {
        "study": config.name,
        "experiment": config.experiment,
        "description": config.description,
        "tasks": [
            {
                "name": t.name,
                "measures": to_json(t.measures),
                "counted": list(t.counted),
                "facts": plain(t.facts),
            }
            for t in tasks
        ],
        "absent": dict(prepared.absent),
        "methods": [
            {**plain(asdict(m)), "tasks": [t.name for t in tasks if _applies(m, t)]} for m in methods
        ],
        "learning_rates": sorted(config.learning_rates),
        "seeds": list(config.seeds),
        "tuning_seeds": list(config.grid_seeds),
        "widen": config.widen,
        "cells": cells,
    }


def _applies(method: Method, task: Task) -> bool:
    return method.tasks is None or task.name in method.tasks


def _seeds(config: TaskStudyConfig, method: Method) -> list[int]:
    return list(config.seeds) if method.seeded else [config.seeds[0]]


class Study:
    """One call of ``compare``."""

    def __init__(self, config: TaskStudyConfig, prepared: Prepared, folder: Path, observer: Observer) -> None:
        self.config, self.prepared, self.folder, self.observer = config, prepared, folder, observer
        self.rows: list[dict[str, Any]] = []
        self.stored: list[dict[str, Any]] = []  # the same as storage holds them
        settings = {key: value for key, value in plain(asdict(config)).items() if key != "loggers"}
        shared = trial_code([prepared, config], names=texts(settings))
        self.code = {method.name: {**shared, **method.code} for method in prepared.methods}

    def run(self, command: str) -> dict[str, Any]:
        config, folder = self.config, self.folder
        planned = plan(config, self.prepared)
        storage.refuse_smaller(folder, sealed.read_or_none(folder / storage.PLAN), planned, ("methods",))
        self.observer("plan", planned)
        self._refuse_stale()
        done = self._unchanged()
        if done is not None:
            return self._report_again(done)
        try_loggers(config.loggers, folder, config.name, f"study {config.name!r}.loggers")
        content = plain(asdict(config))
        storage.write_when_changed(
            folder / "study.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        )
        sealed.write(folder / storage.PLAN, {**planned, "config": content})
        from arch_lab.tasks.events import write_columns

        write_columns(folder, planned)
        self.observer("cells", {"count": planned["cells"]})
        chosen = {task.name: self._task(task) for task in self.prepared.tasks}
        paths = {
            (task, method): [
                self._cell(task, method, rate, seed).folder(folder) for seed in self._ran(task, method, rate)
            ]
            for task, rates in chosen.items()
            for method, rate in rates.items()
        }
        notes = self.prepared.finish(paths, folder, lambda line: self.observer("data", {"text": line}))
        judged = results.summarise(planned, self.rows, chosen)
        judged["warnings"] = [*judged["warnings"], *storage.machine_warnings(self.stored)]
        study = {
            **planned,
            "rows": self.rows,
            "chosen": chosen,
            **judged,
            "notes": notes,
            "environment": environment(),
            "command": command,
        }
        study = sealed.write(folder / storage.STUDY, {**study, "identity": self.study_identity()})
        from arch_lab.tasks.page import write_all

        write_all(folder, study)
        self._show(study)
        return study

    # --- what an earlier call left --------------------------------------------------------------------------------------

    def study_identity(self) -> str:
        """Hash of all that study.json follows from."""
        data = {task.name: self.prepared.fingerprint(task.name) for task in self.prepared.tasks}
        absent = dict(self.prepared.absent)
        config = {key: value for key, value in plain(asdict(self.config)).items() if key != "loggers"}
        return digest(
            [config, data, absent, self.code, conditions(), judge_fingerprint(self.config.experiment)]
        )

    def _refuse_stale(self) -> None:
        """Compare every stored fit of a method and task of this call with what it would be stored under now."""
        for task in self.prepared.tasks:
            for method in self.prepared.methods:
                for path in sorted(
                    (self.folder / "runs" / task.name / method.name).glob("*seed-*/result.json")
                ):
                    row = sealed.read(path, advice=f"delete {path.parent} to fit it again")
                    cell = Cell(
                        task=task.name,
                        method=method.name,
                        learning_rate=row["learning_rate"],
                        seed=row["seed"],
                    )
                    if cell.folder(self.folder) == path.parent:
                        storage.stored_result(path.parent, self.identity(cell), what="a fit")

    def _unchanged(self) -> dict[str, Any] | None:
        """The stored study where this very call has already ended and every fit is there; None otherwise."""
        stored = sealed.read_or_none(self.folder / storage.STUDY)
        if stored is None or stored.get("identity") != self.study_identity():
            return None
        for row in stored["rows"]:
            cell = Cell(**{name: row[name] for name in ("task", "method", "learning_rate", "seed")})
            result = storage.stored_result(cell.folder(self.folder), self.identity(cell))
            if result is None or storage.public(result) != row:
                return None
        return stored

    def _report_again(self, study: dict[str, Any]) -> dict[str, Any]:
        """Write only what is missing of the report."""
        from arch_lab.tasks.page import write_all

        if not (self.folder / "report.html").is_file() or not (self.folder / "results.csv").is_file():
            write_all(self.folder, study)
        self._show(study)
        return study

    def _show(self, study: dict[str, Any]) -> None:
        self.observer(
            "report", {"study": study, "report": str(self.folder / "report.html"), "folder": str(self.folder)}
        )

    def _task(self, task: Task) -> dict[str, float | None]:
        """Fit every cell of a task; the chosen rate by method, None where a method has none."""
        config = self.config
        methods = [m for m in self.prepared.methods if _applies(m, task)]
        tuned = [m for m in methods if m.tuned]
        for method in (m for m in methods if not m.tuned):
            for seed in _seeds(config, method):
                self._fit(self._cell(task.name, method.name, None, seed))
        rates = more = sorted(config.learning_rates)
        for attempt in range(config.widen + 1):
            for method in tuned:
                for rate in more:
                    for seed in config.grid_seeds:
                        self._fit(self._cell(task.name, method.name, rate, seed))
            more = wider(rates, list(self._select(task, tuned).values()))
            if not more or attempt == config.widen:
                break
            self.observer(
                "widen",
                {
                    "task": task.name,
                    "learning_rates": more,
                    "count": len(more) * len(tuned) * len(config.grid_seeds),
                },
            )
            rates = sorted([*rates, *more])
        selected = self._select(task, tuned)
        chosen = {m.name: selected.get(m.name) for m in methods}
        for method in tuned:
            for seed in (s for s in config.seeds if s not in config.grid_seeds):
                self._fit(self._cell(task.name, method.name, chosen[method.name], seed))
        return chosen

    def _select(self, task: Task, methods: list[Method]) -> dict[str, float]:
        records = [Record.of_fit(row) for row in self.rows if row["task"] == task.name]
        return select(records, [m.name for m in methods], task.measures[0])

    def _cell(self, task: str, method: str, rate: float | None, seed: int) -> Cell:
        return Cell(task=task, method=method, learning_rate=rate, seed=seed)

    def _ran(self, task: str, method: str, rate: float | None) -> list[int]:
        return sorted(
            r["seed"]
            for r in self.rows
            if (r["task"], r["method"], r["learning_rate"]) == (task, method, rate)
        )

    def identity(self, cell: Cell) -> dict[str, Any]:
        """Everything that determines a cell's numbers."""
        settings = {k: v for k, v in plain(asdict(self.config)).items() if k not in self.config.CHOOSES}
        data, code = self.prepared.fingerprint(cell.task), self.code[cell.method]
        return {"cell": asdict(cell), "settings": settings, "data": data, "code": code, **conditions()}

    def _fit(self, cell: Cell) -> None:
        where, identity = cell.folder(self.folder), self.identity(cell)
        files.inside(self.folder, where)
        row = storage.stored_result(where, identity, what="a fit")
        if row is None:
            self.observer("fit", {"label": cell.label})
            storage.begin_run(where, identity, lambda line: self.observer("data", {"text": line}))
            started = time.monotonic()
            from arch_lab.study.trial_loggers import TrialLoggers
            from arch_lab.tasks.events import hyperparameters, scalars, write_events

            trial = where.relative_to(self.folder / "runs").as_posix()
            loggers = TrialLoggers(self.config.loggers, TrialNames(self.folder, self.config.name, trial))
            with loggers.opened(hyperparameters(cell)):
                fitted = self.prepared.fit(
                    cell, where, lambda line: self.observer("detail", {"label": cell.label, "text": line})
                )
                new = _row(cell, fitted)
                write_events(where, cell, new, fitted.curve)
                for step, values in scalars(new, fitted.curve):
                    loggers.write(values, step)
                loggers.close("success" if new["status"] == "finished" else "failed")
            row = storage.write_result(where, new, identity, own_files(where))
            if loggers.failure is not None:
                raise loggers.failure
            self.observer("fitted", {"label": cell.label, "row": new, "wall": time.monotonic() - started})
        else:
            self.observer("kept", {"label": cell.label, "row": row})
        self.stored.append(row)
        self.rows.append(storage.public(row))


def _row(cell: Cell, fitted: Fitted) -> dict[str, Any]:
    """A score that is no number is a fit that failed, whatever it calls itself."""
    good = fitted.scores is not None and all(math.isfinite(v) for v in fitted.scores.values())
    good = good and (fitted.tuned is None or math.isfinite(fitted.tuned))
    return {
        **asdict(cell),
        "status": "finished" if good else "diverged",
        "tuned": fitted.tuned if good else None,
        "scores": fitted.scores if good else {},
        "facts": plain(fitted.facts),
    }


def own_files(cell: Path) -> list[str]:
    """Names of what a fit wrote into its folder, such as predictions."""
    return [
        p.name
        for p in sorted(cell.iterdir())
        if p.is_file() and p.name != storage.CONFIG and not p.name.startswith(("events.", "."))
    ]
