"""The engine of studies over tasks: plan -> fit every cell -> choose -> judge -> report; finished cells of an earlier call are kept.

Task by task: every method at every rate for the tuning seeds, the grid widened for all methods while an optimum sits on its edge,
then the other seeds at the rate each method chose. A cell is kept by the hash of what determines it: a changed configuration, code
or data is refused, never mixed. A kill costs the cell it struck, because a fit is minutes at most.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from arch_lab import files
from arch_lab.report.measures import to_json
from arch_lab.study.config import plain, read_study
from arch_lab.study.engine import Observer, cache_folder, command_of, followed
from arch_lab.study.environment import PACKAGE_ROOT, code_fingerprint, environment
from arch_lab.study.identity import differences, digest
from arch_lab.study.library import find_study
from arch_lab.study.planning import use_threads
from arch_lab.study.stages import wider
from arch_lab.tasks import results
from arch_lab.tasks.contract import Cell, Fitted, Method, Prepared, Task, TaskExperiment, TaskStudyConfig
from blocks.config import Config


class TaskEngine:
    """A StudyEngine (arch_lab.study.experiment) around one TaskExperiment."""

    def __init__(self, experiment: TaskExperiment) -> None:
        self.experiment = experiment
        self.config: type[Config] = experiment.config

    def plan(self, study: str, *, overrides: list[str], data_root: str | None, threads: int | None) -> dict[str, Any]:
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

            given: dict[str, Any] = {"overrides": overrides, "output": output, "data_root": data_root, "threads": threads}
            return followed(Terminal(), lambda terminal: self.compare(study, **given, observer=terminal))
        use_threads(threads)
        config = self._config(study, overrides, data_root)
        prepared = self.experiment.open(config, cache_folder(), lambda line: observer("data", {"text": line}))
        return Study(config, prepared, Path(output) / config.name, observer).run(command_of(study, overrides, data_root))

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
        return self.experiment.config.from_options(content, where=f"study {name!r}")


def plan(config: TaskStudyConfig, prepared: Prepared) -> dict[str, Any]:
    """What would be fitted, as plain JSON values."""
    tasks, methods = prepared.tasks, prepared.methods
    cells = 0
    for task in tasks:
        for method in methods:
            if _applies(method, task):
                extra = len([s for s in config.seeds if s not in config.grid_seeds])
                cells += len(_seeds(config, method)) if not method.tuned else len(config.learning_rates) * len(config.grid_seeds) + extra
    return {
        "study": config.name,
        "experiment": config.experiment,
        "description": config.description,
        "tasks": [{"name": t.name, "measures": to_json(t.measures), "counted": list(t.counted), "facts": plain(t.facts)} for t in tasks],
        "absent": dict(prepared.absent),
        "methods": [{**plain(asdict(m)), "tasks": [t.name for t in tasks if _applies(m, t)]} for m in methods],
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
        self.code = digest([code_fingerprint(), experiment_fingerprint(config.experiment)])

    def run(self, command: str) -> dict[str, Any]:
        config, folder = self.config, self.folder
        planned = plan(config, self.prepared)
        self.observer("plan", planned)
        files.check_writable(folder)
        files.write_text(folder / "study.yaml", yaml.safe_dump(plain(asdict(config)), sort_keys=False, allow_unicode=True))
        files.write_json(folder / "plan.json", planned)
        from arch_lab.tasks.events import write_columns

        write_columns(folder, planned)
        self.observer("cells", {"count": planned["cells"]})
        chosen = {task.name: self._task(task) for task in self.prepared.tasks}
        paths = {
            (task, method): [self._cell(task, method, rate, seed).folder(folder) for seed in self._ran(task, method, rate)]
            for task, rates in chosen.items()
            for method, rate in rates.items()
        }
        notes = self.prepared.finish(paths, folder, lambda line: self.observer("data", {"text": line}))
        judged = results.summarise(planned, self.rows, chosen)
        study = {**planned, "rows": self.rows, "chosen": chosen, **judged, "notes": notes, "environment": environment(), "command": command}
        files.write_json(folder / "study.json", study)
        from arch_lab.tasks.page import write_all

        report = write_all(folder, study)
        self.observer("report", {"study": study, "report": str(report), "folder": str(folder)})
        return study

    def _task(self, task: Task) -> dict[str, float | None]:
        """Fit every cell of a task; the chosen rate by method, None where a method has none."""
        config = self.config
        methods = [m for m in self.prepared.methods if _applies(m, task)]
        tuned, higher = [m for m in methods if m.tuned], task.measures[0].higher_is_better
        for method in (m for m in methods if not m.tuned):
            for seed in _seeds(config, method):
                self._fit(self._cell(task.name, method.name, None, seed))
        rates = more = sorted(config.learning_rates)
        for attempt in range(config.widen + 1):
            for method in tuned:
                for rate in more:
                    for seed in config.grid_seeds:
                        self._fit(self._cell(task.name, method.name, rate, seed))
            best = [results.choose(self.rows, task.name, m.name, higher_is_better=higher) for m in tuned]
            more = wider(rates, [b for b in best if b is not None])
            if not more or attempt == config.widen:
                break
            self.observer("widen", {"task": task.name, "learning_rates": more, "count": len(more) * len(tuned) * len(config.grid_seeds)})
            rates = sorted([*rates, *more])
        chosen = {m.name: results.choose(self.rows, task.name, m.name, higher_is_better=higher) for m in methods}
        for method in tuned:
            for seed in (s for s in config.seeds if s not in config.grid_seeds):
                self._fit(self._cell(task.name, method.name, chosen[method.name], seed))
        return chosen

    def _cell(self, task: str, method: str, rate: float | None, seed: int) -> Cell:
        return Cell(task=task, method=method, learning_rate=rate, seed=seed)

    def _ran(self, task: str, method: str, rate: float | None) -> list[int]:
        return sorted(r["seed"] for r in self.rows if (r["task"], r["method"], r["learning_rate"]) == (task, method, rate))

    def identity(self, cell: Cell) -> dict[str, Any]:
        """Everything that determines a cell's numbers."""
        settings = {k: v for k, v in plain(asdict(self.config)).items() if k not in self.config.CHOOSES}
        return {"cell": asdict(cell), "settings": settings, "data": self.prepared.fingerprint(cell.task), "code": self.code}

    def _fit(self, cell: Cell) -> None:
        where, identity = cell.folder(self.folder), self.identity(cell)
        before = files.read_json(where / "config.json")
        changed = differences(before, identity) if before is not None else []
        if changed:
            raise files.OutputError(
                f"{where} holds a fit of another configuration ({', '.join(changed[:3])} changed); results are never mixed: "
                "choose another --output, or delete the folder"
            )
        row = files.read_json(where / "result.json") if before is not None else None
        if row is None:
            self.observer("fit", {"label": cell.label})
            files.write_json(where / "config.json", identity)
            started = time.monotonic()
            fitted = self.prepared.fit(cell, where, lambda line: self.observer("detail", {"label": cell.label, "text": line}))
            row = _row(cell, fitted)
            from arch_lab.tasks.events import write_events

            write_events(where, cell, row, fitted.curve)
            files.write_json(where / "result.json", row)
            self.observer("fitted", {"label": cell.label, "row": row, "wall": time.monotonic() - started})
        else:
            self.observer("kept", {"label": cell.label, "row": row})
        self.rows.append(row)


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


def experiment_fingerprint(name: str) -> str:
    """Hash of the experiment's own sources and of the metrics, which code_fingerprint leaves out."""
    digest = hashlib.sha256()
    for folder in (PACKAGE_ROOT / "experiments" / name, PACKAGE_ROOT / "arch_lab" / "metrics"):
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.relative_to(PACKAGE_ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
