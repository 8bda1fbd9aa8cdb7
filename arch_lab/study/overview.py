"""What stands in run folders, read from their plain files.

State, progress, verdict, and the command that goes on.

It imports nothing heavy: `arch-lab list` answers at once.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from arch_lab import files, sealed
from arch_lab.files import is_locked
from arch_lab.stored import VERSION, Json, Lenient

STUDY, PLAN = "study.json", "plan.json"
MARKS = (STUDY, PLAN, "identity.json")
RESULTS = "runs/**/result.json"
DEPTH = 3  # folders below the one that is searched
RUNNING, FINISHED, REFUSED, INTERRUPTED = "running", "finished", "refused", "interrupted"
DAMAGED, OUTDATED = "damaged", "outdated"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One study's folder. ``by_arm``: records of trials that have ended, by arm."""

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

    def to_json(self) -> Json:
        return asdict(self)

    @property
    def progress(self) -> str:
        return f"{self.done}/{'?' if self.planned is None else self.planned}"


@dataclass(frozen=True)
class StudyFacts(Lenient):
    """Of ``plan.json`` or ``study.json``."""

    study: str = ""
    experiment: str = ""
    version: int = 0
    trials: int = 0
    results: list[Json] = field(default_factory=list)
    verdict: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Result(Lenient):
    """Of a record, or of a ``result.json``; ``records``: of a trial that measures several arms."""

    arm: str = ""
    status: str = ""
    records: list[Json] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict(Lenient):
    text: str = ""


@dataclass(frozen=True)
class Certificate(Lenient):
    passed: bool = True
    reason: str = ""


def run_folders(root: Path) -> list[RunFolder]:
    """Every study folder at or below ``root``, latest first."""
    runs = [open_run(folder) for folder in _search(root, DEPTH)]
    return sorted(runs, key=lambda run: run.when, reverse=True)


def is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def _search(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
        return
    try:
        subfolder = (
            sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
            if depth
            else []
        )
    except OSError:
        return
    for path in subfolder:
        yield from _search(path, depth - 1)


def open_run(folder: Path) -> RunFolder:
    """The state of one folder. Files that cannot be read count as absent.

    A study.json that is not what was written is state "damaged"; one of another version of arch-lab,
    "outdated".
    """
    content = sealed.read_or_none(folder / STUDY)
    study, plan = StudyFacts.read(content or {}), StudyFacts.read(_read(folder / PLAN))
    stored = [result for path in sorted(folder.glob(RESULTS)) if (result := _read(path))]
    records = _results(study.results) or [record for result in stored for record in _records(result)]
    trials = len(stored) or len(records)
    refusal = _refusal(folder)
    state = _state(folder, study if content else None, refusal)
    outdated = "study.json is of another version of arch-lab; arch-lab compare writes it again"
    return RunFolder(
        folder=str(folder),
        study=study.study or plan.study or folder.name,
        experiment=study.experiment or plan.experiment,
        state=state,
        done=trials,
        planned=trials if content else plan.trials or None,
        diverged=sum(record.status == "diverged" for record in records),
        by_arm=dict(Counter(record.arm or "?" for record in records)),
        verdict=Verdict.read(study.verdict).text,
        reason=outdated if state == OUTDATED else "" if content else refusal,
        when=_when(folder),
        resume=resume_command(folder),
    )


def resume_command(folder: Path) -> str:
    """The call of ``compare`` that goes on in ``folder``, from the study that is stored in it."""
    output = folder.parent
    options = [] if str(output) == "runs" else ["--output", str(output)]
    return shlex.join(["arch-lab", "compare", str(folder / "study.yaml"), *options])


def _state(folder: Path, study: StudyFacts | None, refusal: str) -> str:
    if is_locked(folder):
        return RUNNING
    if study is not None:
        return FINISHED if study.version == VERSION else OUTDATED
    if (folder / STUDY).is_file():
        return DAMAGED
    return REFUSED if refusal else INTERRUPTED


def _refusal(folder: Path) -> str:
    """Why an arm was refused, from its certificate; '' when none was."""
    for path in sorted(folder.glob("certificates/*.json")):
        certificate = Certificate.read(_read(path))
        if not certificate.passed:
            return f"{path.stem}: {certificate.reason or 'the certificate failed'}"
    return ""


def _records(result: Json) -> list[Result]:
    """Records of a result.json: several where one trial measures several arms."""
    trial = Result.read(result)
    return _results(trial.records) or [trial]


def _results(rows: list[Json]) -> list[Result]:
    return [Result.read(row) for row in rows if isinstance(row, dict)]


def _when(folder: Path) -> str:
    """Time of the last change of a result, in local time."""
    paths = [*(folder / mark for mark in MARKS), *folder.glob(RESULTS)]
    times = [path.stat().st_mtime for path in paths if path.is_file()]
    return datetime.fromtimestamp(max(times, default=os.stat(folder).st_mtime)).strftime("%Y-%m-%d %H:%M")


def _read(path: Path) -> Json:
    content = files.read_json(path)
    return content if isinstance(content, dict) else {}
