"""A throughput study from its file to its report: plan -> verify -> time -> report; what was timed is kept.

A group of cells (every arm at one length, level and mode) is written when it is whole; after a kill or Ctrl-C the same call
goes on with the next group. Cells of another configuration, code, machine or number of threads are refused, never mixed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from arch_lab import files, sealed
from arch_lab.accounting import ledger
from arch_lab.budget import check, deviations, refuse
from arch_lab.laws import certify_model
from arch_lab.study import storage
from arch_lab.study.code_identity import conditions, trial_code
from arch_lab.study.engine import Observer, command_of, followed, verify
from arch_lab.study.environment import cpu_name, gate_fingerprint, judge_fingerprint
from arch_lab.study.identity import digest
from arch_lab.study.planning import UTILISATION, gemm_rate, solved, use_threads
from arch_lab.throughput.config import DECODING, LEAST_REPEATS, Group, ThroughputConfig, open_throughput
from arch_lab.throughput.contenders import Settings
from arch_lab.throughput.results import summarise, write_results
from arch_lab.throughput.timing import Row, Timer, clock_here
from arch_lab.throughput.work import asked
from blocks.config import Config
from blocks.errors import ConfigError

CELLS, IDENTITY = "cells.jsonl", "identity.json"


class Throughput:
    """The engine of experiment ``throughput`` (arch_lab.study.experiment.StudyEngine)."""

    config: type[Config] = ThroughputConfig

    def plan(
        self, study: str, *, overrides: list[str], data_root: str | None, threads: int | None
    ) -> dict[str, Any]:
        config = _open(study, overrides, data_root, threads)
        return build_plan(config)

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
            from arch_lab.throughput.terminal import Terminal

            given: dict[str, Any] = {
                "overrides": overrides,
                "output": output,
                "data_root": data_root,
                "threads": threads,
            }
            return followed(Terminal(), lambda terminal: self.compare(study, **given, observer=terminal))
        config = _open(study, overrides, data_root, threads)
        return run(config, Path(output) / config.name, observer, command_of(study, overrides, None))

    def render_plan(self, plan: dict[str, Any], console: Any) -> None:
        from arch_lab.throughput.terminal import render_plan

        render_plan(plan, console)

    def report(self, folder: Path) -> Path:
        from arch_lab.throughput.page import write

        return write(folder)

    def markdown(self, folder: Path) -> str:
        from arch_lab.throughput.results import load
        from arch_lab.throughput.tables import markdown

        return markdown(load(folder))


def _open(study: str, overrides: list[str], data_root: str | None, threads: int | None) -> ThroughputConfig:
    if data_root is not None:
        raise ConfigError("--data-root: a throughput study reads no data; leave it out")
    config = open_throughput(study, overrides)
    if config.dtype == "bfloat16" and not torch.cuda.is_available():
        raise ConfigError(
            f"study {config.name!r}: dtype bfloat16 is 16 to 60 times slower on most processors; use float32, or a GPU"
        )
    use_threads(threads if threads is not None else config.threads)
    return config


# --- plan -------------------------------------------------------------------------------------------------------------


def build_plan(config: ThroughputConfig) -> dict[str, Any]:
    """Shapes matched at ``match_length``, parameters at every length, groups with an estimate; times nothing but one matmul.

    Raises: BudgetError when an arm cannot meet the budget, or a fixed shape misses it; ConfigError for options that do not fit.
    """
    budget = config.budget.for_solver()
    found = solved(
        config.arms, config.experiment, budget, vocabulary=config.vocabulary, tokens=config.match_length
    )
    arms: list[dict[str, Any]] = []
    for arm, (recipe_, shape) in zip(config.arms, found, strict=True):

        def counts(tokens: int, recipe_: Any = recipe_, shape: Any = shape) -> Any:
            return ledger(
                recipe_.config(shape, vocabulary=config.vocabulary, max_tokens=tokens), tokens=tokens, batch=1
            )

        book = counts(config.match_length)
        facts: dict[str, Any] = {
            "name": arm.name,
            "architecture": arm.architecture,
            "options": arm.options,
            **asdict(shape),
        }
        facts |= {
            "parameters": book.parameters,
            "parameters_at": {str(t): counts(t).parameters["total"] for t in sorted(config.lengths)},
        }
        at_match = recipe_.config(shape, vocabulary=config.vocabulary, max_tokens=config.match_length)
        facts["code"] = trial_code(
            [at_match.build("meta"), recipe_], also=[(Timer.__module__, Timer.__name__)]
        )
        facts["deviation"] = deviations(facts, config.budget.to_json())
        arms.append({**facts, "components": [asdict(c) for c in book.components]})
    misses = check(arms, budget)
    if misses and not budget.allow_unmatched:
        refuse(arms, budget)
    groups = config.groups()
    return {
        "study": config.name,
        "experiment": config.experiment,
        "description": config.description,
        "budget": config.budget.to_json(),
        "tolerance": config.budget.tolerance,
        "matched": not misses,
        "override": bool(misses),
        "misses": [asdict(m) for m in misses],
        "subject": config.subject,
        "vocabulary": config.vocabulary,
        "match_length": config.match_length,
        "tokens_per_step": config.tokens_per_step,
        "decode_tokens": config.decode_tokens,
        "repeats": config.repeats,
        "cell_seconds": config.cell_seconds,
        "dtype": config.dtype,
        "arms": arms,
        "groups": [{**asdict(group), "estimate_seconds": _estimate(config, arms, group)} for group in groups],
        "cells": len(groups) * len(arms),
    }


def _estimate(config: ThroughputConfig, arms: list[dict[str, Any]], group: Group) -> float:
    """Rough on purpose: FLOPs over a share of the GEMM rate, as often as the time of a cell allows; a decoding token as one of T/64."""
    settings, seconds = Settings.of(config), 0.0
    as_prefill = {"level": group.level, "mode": "prefill" if group.mode in DECODING else group.mode}
    for arm in arms:
        flops = asked(settings.decoder(arm, group), **as_prefill, tokens=group.tokens, batch=group.batch)
        assert flops is not None
        call = flops / (gemm_rate() * UTILISATION)
        if group.mode == "decode":
            call = max(call / 64, 1e-3 * config.decode_tokens)
        calls = min(config.repeats + 2, max(LEAST_REPEATS + 1, config.cell_seconds / call))
        seconds += min(calls * call, config.cell_seconds * (LEAST_REPEATS + 1))
    return seconds


# --- run --------------------------------------------------------------------------------------------------------------


def run(
    config: ThroughputConfig,
    folder: Path,
    observer: Observer,
    command: str,
    timer: Callable[..., Timer] = Timer,
) -> dict[str, Any]:
    """Everything after the configuration. Raises: UserError before anything is timed wherever that is possible."""
    with files.folder_lock(folder, "arch-lab compare"):
        return _run(config, folder, observer, command, timer)


def _run(
    config: ThroughputConfig, folder: Path, observer: Observer, command: str, timer: Callable[..., Timer]
) -> dict[str, Any]:
    """``run`` in a folder that is locked."""
    planned = build_plan(config)
    timed_as = identity(config, planned["arms"])
    _refuse_changed(folder, timed_as)
    rows = kept(folder, config, timed_as)
    observer("plan", planned)
    done = _unchanged(config, folder, timed_as, rows)
    if done is not None:
        return _report_again(folder, done, observer)
    sealed.write(folder / IDENTITY, timed_as)
    storage.write_when_changed(
        folder / "study.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    )
    sealed.write(folder / storage.PLAN, {**planned, "config": config.to_dict()})
    if (folder / CELLS).is_file():
        storage.write_when_changed(folder / CELLS, _lines(rows, timed_as))  # cut back to whole groups
    sizes: dict[str, Any] = {"vocabulary": config.vocabulary, "max_tokens": config.match_length}
    certify = partial(certify_model, vocabulary=config.vocabulary, training_length=config.match_length)
    gate = gate_fingerprint("throughput")
    verify(planned["arms"], folder, **sizes, certify=certify, gate=gate, observer=observer)
    names = {(r["level"], r["mode"], r["tokens"], r["compiled"]) for r in rows}
    clock = timer(config, planned["arms"], rows)
    work = {
        (g["level"], g["mode"], g["tokens"], g["compiled"]): g["estimate_seconds"] for g in planned["groups"]
    }
    observer("groups", {"work": list(work.values())})
    for group in config.groups():
        place = (group.level, group.mode, group.tokens, group.compiled)
        facts = {"label": group.label, "work": work[place]}
        if place in names:
            observer("kept", facts)
            continue
        observer("group", facts)
        timed = clock.group(group)
        _append(folder / CELLS, _lines(timed, timed_as))
        rows += timed
        observer("timed", {**facts, "rows": timed})
    study = summarise(
        planned,
        rows,
        command=command,
        clock="processor" if clock_here().__name__ == "process_time" else "wall",
    )
    study = sealed.seal({**study, "identity": _study_identity(config, timed_as)})
    _write_all(folder, study)
    observer("report", {"study": study, "report": str(folder / "report.html"), "folder": str(folder)})
    return study


def _study_identity(config: ThroughputConfig, timed_as: dict[str, Any]) -> str:
    """Hash of all that study.json follows from, the times apart."""
    return digest([config.to_dict(), timed_as, judge_fingerprint("throughput")])


def _unchanged(
    config: ThroughputConfig, folder: Path, timed_as: dict[str, Any], rows: list[Row]
) -> dict[str, Any] | None:
    """The stored study where this very call has already ended and every time is there; None otherwise."""
    stored = sealed.read_or_none(folder / storage.STUDY)
    if stored is None or stored.get("identity") != _study_identity(config, timed_as):
        return None
    return stored if digest(stored["rows"]) == digest(rows) else None


def _write_all(folder: Path, study: dict[str, Any]) -> None:
    """The results, report.html and its figures."""
    from arch_lab.throughput.page import write

    write_results(folder, study)
    write(folder)


def _report_again(folder: Path, study: dict[str, Any], observer: Observer) -> dict[str, Any]:
    """Write only what is missing of the report."""
    if not all((folder / name).is_file() for name in ("report.html", "results.csv")):
        _write_all(folder, study)
    observer("report", {"study": study, "report": str(folder / "report.html"), "folder": str(folder)})
    return study


def identity(config: ThroughputConfig, arms: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that determines a time, as far as a file can say it."""
    said = {k: v for k, v in config.to_dict().items() if k not in ("description", "threads")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    code = {name: source for arm in arms for name, source in arm["code"].items()}
    return {**said, "device": device, **conditions(), "code": code}


def _refuse_changed(folder: Path, now: dict[str, Any]) -> None:
    """Raises: OutputError when the folder holds cells that something else timed; DamagedError when it no longer says what."""
    if not (folder / CELLS).is_file():
        return
    before = sealed.read(folder / IDENTITY, advice=f"delete {folder} to time again")
    before.pop(sealed.CHECKSUM, None)
    if digest(before) != digest(now):
        raise files.OutputError(storage.refusal(folder, before, now, "times"))


def kept(folder: Path, config: ThroughputConfig, timed_as: dict[str, Any]) -> list[Row]:
    """Rows of whole groups that an earlier call wrote.

    A last line that a kill cut short is left out. Raises: DamagedError for any other that is not what was written.
    """
    path = folder / CELLS
    if not path.is_file():
        return []
    groups: dict[tuple[Any, ...], dict[str, Row]] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        row = _row(line, timed_as)
        if row is not None:
            groups.setdefault((row["level"], row["mode"], row["tokens"], row["compiled"]), {})[row["arm"]] = (
                row
            )
        elif number < len(lines) or line.endswith("}"):
            raise sealed.DamagedError(
                f"{path}, line {number}, was edited or damaged after it was written; delete {folder} to time again"
            )
    names = [arm.name for arm in config.arms]
    return [group[name] for group in groups.values() if set(names) <= set(group) for name in names]


def _row(line: str, timed_as: dict[str, Any]) -> Row | None:
    """A line of cells.jsonl without its checksum; None when it is not one that this study wrote."""
    try:
        row = json.loads(line)
        claimed = row.pop(sealed.CHECKSUM)
        return row if claimed == _checksum(row, timed_as) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _checksum(row: Row, timed_as: dict[str, Any]) -> str:
    return sealed.checksum({"row": row, "identity": digest(timed_as)})


def _lines(rows: list[Row], timed_as: dict[str, Any]) -> str:
    return "".join(
        json.dumps({**row, sealed.CHECKSUM: _checksum(row, timed_as)}, allow_nan=False) + "\n" for row in rows
    )


def _append(path: Path, lines: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise files.cannot_write(path, error) from None
