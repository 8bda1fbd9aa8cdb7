"""What stands in run folders, read from their plain files: state, progress, verdict, and the command that goes on."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from arch_lab import files, sealed
from arch_lab.files import is_locked

MARKS = ("study.json", "plan.json", "identity.json")
DEPTH = 3  # folders below the one that is searched
RUNNING, FINISHED, REFUSED, INTERRUPTED, DAMAGED = "running", "finished", "refused", "interrupted", "damaged"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One study's folder. ``by_arm``: trials that have ended, by arm or method."""

    folder: str
    study: str
    experiment: str
    state: str
    done: int
    planned: int | None
    diverged: int
    by_arm: dict[str, int] = field(default_factory=dict)
    verdict: str
    reason: str
    when: str
    resume: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def progress(self) -> str:
        return f"{self.done}/{'?' if self.planned is None else self.planned}"


def run_folders(root: Path) -> list[RunFolder]:
    """Every study folder at or below ``root``, latest first."""
    found = [open_run(folder) for folder in _search(root, DEPTH)]
    return sorted(found, key=lambda run: run.when, reverse=True)


def is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def _search(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
        return
    try:
        below = (
            sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
            if depth
            else []
        )
    except OSError:
        return
    for path in below:
        yield from _search(path, depth - 1)


def open_run(folder: Path) -> RunFolder:
    """The state of one folder. Files that cannot be read count as absent; a study.json that is not what was written is state "damaged"."""
    study, plan = sealed.read_or_none(folder / "study.json") or {}, _read(folder / "plan.json")
    known = {**plan, **study}
    results = study.get("results") or study.get("rows") or _results(folder)
    results = [row for row in results if isinstance(row, dict)]
    reason = _refusal(folder)
    planned = len(results) if study else plan.get("runs", plan.get("cells"))
    by_arm: dict[str, int] = {}
    for row in results:
        name = str(row.get("arm") or row.get("method") or "?")
        by_arm[name] = by_arm.get(name, 0) + 1
    return RunFolder(
        folder=str(folder),
        study=str(known.get("study") or folder.name),
        experiment=str(known.get("experiment") or ""),
        state=_state(folder, study, reason),
        done=len(results),
        planned=planned if isinstance(planned, int) else None,
        diverged=sum(row.get("status") == "diverged" for row in results),
        by_arm=by_arm,
        verdict=_verdict(study),
        reason=reason if not study else "",
        when=_when(folder),
        resume=resume_command(folder),
    )


def resume_command(folder: Path) -> str:
    """The call of ``compare`` that goes on in ``folder``, from the study that is stored in it."""
    output = folder.parent
    words = [
        "arch-lab",
        "compare",
        str(folder / "study.yaml"),
        *([] if str(output) == "runs" else ["--output", str(output)]),
    ]
    return shlex.join(words)


def _state(folder: Path, study: Mapping[str, Any], reason: str) -> str:
    if is_locked(folder):
        return RUNNING
    if study:
        return FINISHED
    if (folder / "study.json").is_file():
        return DAMAGED
    return REFUSED if reason else INTERRUPTED


def _verdict(study: Mapping[str, Any]) -> str:
    verdict = study.get("verdict")
    return str(verdict.get("text", "")) if isinstance(verdict, dict) else ""


def _refusal(folder: Path) -> str:
    """Why an arm was refused, from its certificate; '' when none was."""
    for path in sorted(folder.glob("certificates/*.json")):
        certificate = _read(path)
        if certificate.get("passed") is False:
            return f"{path.stem}: {certificate.get('reason') or 'the certificate failed'}"
    return ""


def _results(folder: Path) -> list[dict[str, Any]]:
    """Results of the trials that have ended: one file each, or lines of one file in studies of speed."""
    rows = [_read(path) for path in sorted(folder.glob("runs/**/result.json"))]
    cells = folder / "cells.jsonl"
    if cells.is_file():
        rows += [_parse(line) for line in cells.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [row for row in rows if row]


def _when(folder: Path) -> str:
    """Time of the last change of a result, in local time."""
    times = [
        path.stat().st_mtime
        for path in [folder / mark for mark in MARKS] + sorted(folder.glob("runs/**/result.json"))
        if path.is_file()
    ]
    return datetime.fromtimestamp(max(times, default=os.stat(folder).st_mtime)).strftime("%Y-%m-%d %H:%M")


def _read(path: Path) -> dict[str, Any]:
    content = files.read_json(path)
    return content if isinstance(content, dict) else {}


def _parse(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
