"""The folder of a study: what is stored of each run, and what a later call may do with it.

A run's folder holds ``config.json`` (its identity: everything that determines its numbers) and, once it
ended, ``result.json``
with a checksum of itself, of its curve and of its weights. A result is used again for the very same identity
only:

* a finished result of another identity, or a checkpoint of one, is refused before anything is written:
  nothing is mixed;
* a run that diverged is trained again when what determines it changed, for instance after its block was
  mended;
* a finished study may grow (more arms, rates or seeds); a call that would leave out what it compared is
  refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from arch_lab import files, sealed
from arch_lab.files import OutputError
from arch_lab.judge.records import FINISHED, Machine, Record, machine_names
from arch_lab.sealed import DamagedError, file_sha256
from arch_lab.stored import Json, Lenient
from arch_lab.study.code_identity import is_our_path
from arch_lab.study.environment import machine
from arch_lab.study.events import METRICS
from arch_lab.study.identity import differences, digest
from arch_lab.study.plan import VERSION, Plan
from arch_lab.study.study import STUDY, writer_of
from arch_lab.study.trial import RUNS, Trial
from arch_lab.training.saving import CHECKPOINT, discard
from arch_lab.units import counted
from arch_lab.version import __version__
from blocks.dispatch import VARIABLE

CONFIG, RESULT, PLAN = "config.json", "result.json", "plan.json"
STORED = (
    "identity",
    "arch_lab",
    "files",
    sealed.CHECKSUM,
)  # keys of result.json that are no part of the result
DERIVED = (
    "width",
    "depth",
    "ffn_width",
    "flops_per_token",
    "steps",
)  # keys of an identity that follow from others
PER_TRIAL = (
    "task",
    "arm",
    "learning_rate",
    "size",
    "draw",
    "seed",
)  # keys of an identity that say which trial it is
CONDITIONS = ("torch", "threads", "operations")  # keys of an identity whose two values a refusal gives
OTHER_FOLDER = "choose another --output, or delete the folder"
ELSEWHERE = f"results are never mixed: {OTHER_FOLDER}"


# --- one run ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Binding(Lenient):
    """What a ``result.json`` is bound to.

    ``files``: name -> sha256; ``records``: of a trial of several arms.
    """

    identity: str = ""
    status: str = ""
    files: dict[str, str] = field(default_factory=dict)
    machine: Json = field(default_factory=dict)
    records: list[Json] = field(default_factory=list)


@dataclass(frozen=True)
class PlanFile(Lenient):
    """What a later call asks of ``plan.json``."""

    version: int = 0
    config: Json = field(default_factory=dict)


def stored_result(folder: Path, identity: Mapping[str, Any], noun: str = "a run") -> dict[str, Any] | None:
    """The content of ``result.json`` when it is of this very run, or None when the run is still to be
    trained.

    Raises: OutputError for results of another identity; DamagedError for a file that was edited or cut short.
    """
    advice = f"delete {folder} to train this run again"
    if not (folder / RESULT).exists():
        earlier = files.read_json(folder / CONFIG)
        if (folder / CHECKPOINT).exists() and earlier is not None and digest(earlier) != digest(identity):
            raise OutputError(refusal(folder, _mapping(earlier), identity, noun))
        return None
    result = sealed.read(folder / RESULT, advice=advice)
    binding = Binding.read(result)
    if binding.identity != digest(identity):
        earlier = files.read_json(folder / CONFIG)
        if not isinstance(earlier, dict) or digest(earlier) != binding.identity:
            raise DamagedError(
                f"{folder / RESULT} is the result of another run, or {CONFIG} in its folder was edited; "
                f"{advice}"
            )
        if binding.status == FINISHED:
            raise OutputError(refusal(folder, earlier, identity, noun))
        return None
    check_files(folder, result, advice=advice)
    return result


def stored_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and result of a run that ended, wherever its folder lies. Raises: DamagedError."""
    advice = f"delete {folder} and run arch-lab compare again"
    result = sealed.read(folder / RESULT, advice=advice)
    config = files.read_json(folder / CONFIG)
    if not isinstance(config, dict) or digest(config) != Binding.read(result).identity:
        raise DamagedError(
            f"{folder / CONFIG} is missing, was edited, or belongs to another run than {RESULT}; {advice}"
        )
    check_files(folder, result, advice=advice)
    return config, result


def begin_run(folder: Path, identity: Mapping[str, Any], note: Callable[[str], None]) -> None:
    """Write the identity of a run that starts, or goes on; what another identity left behind is dropped and
    told.
    """
    earlier = files.read_json(folder / CONFIG)
    if earlier is not None and digest(earlier) != digest(identity):
        note(f"{folder} did not finish under {_difference(_mapping(earlier), identity)}: it is trained again")
        (folder / RESULT).unlink(missing_ok=True)
        discard(folder / CHECKPOINT)
    if earlier is None or digest(earlier) != digest(identity):
        files.write_json(folder / CONFIG, identity)


def write_result(folder: Path, records: Sequence[Record], identity: Json) -> Json:
    """Write ``result.json``, bound to the identity, to this machine and to the files of the trial; returns
    its content.

    A trial of one arm is its record; one that measures several arms together holds a list of them.
    """
    one = records[0].to_json() if len(records) == 1 else {"status": FINISHED}
    several = {} if len(records) == 1 else {"records": [record.to_json() for record in records]}
    hashes = {path.name: file_sha256(path) for path in own_files(folder)}
    bound = {
        "identity": digest(identity),
        "machine": machine().to_json(),
        "arch_lab": __version__,
        "files": hashes,
    }
    return sealed.write(folder / RESULT, {**one, **several, **bound})


def own_files(folder: Path) -> list[Path]:
    """What a trial wrote into its folder, such as its curve, weights or predictions."""
    excluded = (CONFIG, RESULT, CHECKPOINT, f"{CHECKPOINT}.sha256")
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name not in excluded and not path.name.startswith(("events.", "."))
    ]


def records_of(result: Json) -> list[Record]:
    """The records in the content of a ``result.json``."""
    binding = Binding.read(result)
    bare = {key: value for key, value in result.items() if key not in STORED}
    records = [Record.from_json(one) for one in (binding.records if "records" in result else [bare])]
    ran_on = Machine.from_json(binding.machine)
    return [replace(record, machine=ran_on) for record in records]


def check_files(folder: Path, result: Mapping[str, Any], *, advice: str) -> None:
    """Raises: DamagedError for a file of a run that is not what the run wrote.

    One that was deleted is missed by who needs it.
    """
    for name, expected in Binding.read(result).files.items():
        path = folder / name
        if path.is_file() and file_sha256(path) != expected:
            raise DamagedError(f"{path} was edited or damaged after it was written; {advice}")


def curve_hashes(folder: Path, trials: Iterable[Trial], results: Iterable[Json]) -> dict[str, str]:
    """Path below the study's folder -> hash, of the curve of each trial: what a report checks before it
    draws.
    """
    hashes = ((trial, Binding.read(result).files) for trial, result in zip(trials, results, strict=True))
    return {
        (trial.folder(folder) / METRICS).relative_to(folder).as_posix(): by_name[METRICS]
        for trial, by_name in hashes
        if METRICS in by_name
    }


def machine_warnings(records: Sequence[Record]) -> list[str]:
    """One line when the trials of a study were made on more than one machine, with the number of each."""
    counts = Counter(machine_names(records))
    if len(counts) < 2:
        return []
    listed = "; ".join(f"{name}: {counted(count, 'run')}" for name, count in sorted(counts.items()))
    return [
        f"runs were made on different machines ({listed}): speeds and memory of different machines are "
        "not averaged and cannot be compared, and scores may differ in their last digits"
    ]


# --- the whole study ----------------------------------------------------------------------------------------


def refuse_changed(
    folder: Path,
    arms: Sequence[str],
    tasks: Sequence[str],
    identity_of: Callable[[Trial], Json],
    *,
    unknown: Sequence[str] = (),
    noun: str = "runs",
) -> None:
    """Compare every stored trial of these arms and tasks with what this call would store, before anything is
    written.

    ``unknown``: keys of an identity that are not known yet. Raises: OutputError when they differ.
    """
    for path, stored in _stored_work(folder):
        trial = Trial(**{key: stored[key] for key in PER_TRIAL if key in stored})
        if trial.task not in tasks or (trial.arm and trial.arm not in arms) or trial.folder(folder) != path:
            continue
        expected = identity_of(trial)
        old, new = ({k: v for k, v in side.items() if k not in unknown} for side in (stored, expected))
        if digest(old) != digest(new):
            raise OutputError(refusal(folder, old, new, noun))


def _stored_work(folder: Path) -> Iterator[tuple[Path, Json]]:
    """Folder and identity of every trial that took work."""
    for config in sorted((folder / RUNS).glob("**/config.json")):
        stored = files.read_json(config)
        if isinstance(stored, dict) and _holds_work(config.parent):
            yield config.parent, stored


def refuse_smaller(
    folder: Path, earlier: Mapping[str, Any] | None, current: Mapping[str, Any], keys: Iterable[str]
) -> list[str]:
    """Compare a finished study with what this call asks for; returns what it adds, in words.

    ``keys``: those of ``earlier`` and ``current`` that list what is compared. Raises: OutputError when this
    call leaves some out.
    """
    if earlier is None or not (folder / STUDY).exists():
        return []
    grown = []
    for key in keys:
        old, new = _names(earlier.get(key)), _names(current.get(key))
        lost = [str(member) for member in old if member not in new]
        if lost:
            raise OutputError(
                f"{folder} holds a finished study with {key} {', '.join(map(str, old))}; "
                f"this call leaves out {', '.join(lost)} and would replace its results: choose another --output, or delete the folder"
            )
        grown += (
            [f"{key}: {', '.join(str(member) for member in new if member not in old)}"]
            if len(new) > len(old)
            else []
        )
    return grown


def refuse_other_settings(
    folder: Path, settings: Callable[[Json], Json], config: Json, noun: str = "runs"
) -> None:
    """Raises: OutputError when trials are stored and their settings are not those of this call."""
    stored = stored_config(folder)
    if stored is None or next(_stored_work(folder), None) is None:
        return
    old, new = settings(stored), settings(config)
    if digest(old) != digest(new):
        raise OutputError(refusal(folder, old, new, noun))


def stored_config(folder: Path) -> dict[str, Any] | None:
    """The configuration an earlier call wrote into ``plan.json``; None where there is none, or it was edited."""
    plan = sealed.read_or_none(folder / PLAN)
    return PlanFile.read(plan or {}).config or None


def stored_plan(folder: Path) -> Plan | None:
    """The plan of an earlier call; None where there is none, it was edited, or another version wrote it."""
    content = sealed.read_or_none(folder / PLAN)
    if content is None or PlanFile.read(content).version != VERSION:
        return None
    excluded = ("config", "identity", sealed.CHECKSUM)
    return Plan.from_json({key: value for key, value in content.items() if key not in excluded})


def stored_names(folder: Path) -> Json:
    """Names of the arms and tasks of an earlier plan."""
    plan = stored_plan(folder)
    if plan is None:
        return {}
    return {"arms": [arm.name for arm in plan.arms], "tasks": [task.name for task in plan.tasks]}


def write_when_changed(path: Path, text: str) -> None:
    """Write ``text``, unless the file holds just that: a repeated call changes nothing."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (OSError, ValueError):
        pass
    files.write_text(path, text)


def refusal(folder: Path, earlier: Mapping[str, Any], current: Mapping[str, Any], noun: str) -> str:
    """The line that refuses to mix results of two identities: what differs between them, and what to do."""
    if isinstance(
        earlier.get("code"), str
    ):  # a hash of everything, before the files were recorded one by one
        writer = _writer(folder)
        return (
            f"{folder} holds {noun} {writer}, which did not record the files that they depend on; {ELSEWHERE}"
        )
    return f"{folder} holds {noun} of {_difference(earlier, current)}; {_advice(earlier, current)}{ELSEWHERE}"


def _difference(earlier: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """What differs between two identities in words: 'other code (blocks/norm.py changed)'."""
    changed = differences(earlier, current)
    code = sorted(
        (key.removeprefix("code.") for key in changed if key.startswith("code.")),
        key=lambda path: (is_our_path(path), path),
    )
    conditions = [key for key in changed if key in CONDITIONS]
    settings = [key for key in changed if key not in conditions and not key.startswith("code.")]
    settings = [key for key in settings if key not in DERIVED] or settings
    clauses = [f"{_first(code + settings)} changed"] if code or settings else []
    clauses += [
        f"{_condition(key)}: {earlier.get(key) or 'none'} then, {current.get(key) or 'none'} now"
        for key in conditions
    ]
    other = "another configuration" if settings else "other code" if code else "other conditions"
    return f"{other} ({'; '.join(clauses)})"


def _first(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _condition(key: str) -> str:
    return VARIABLE if key == "operations" else key


def _advice(earlier: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """How a call under the same conditions is made, where nothing else differs."""
    changed = differences(earlier, current)
    if changed == ["threads"]:
        return f"go on with --threads {earlier.get('threads')}; "
    if changed == ["operations"]:
        return f"go on with {VARIABLE}={earlier.get('operations') or ''}; "
    return ""


def _writer(folder: Path) -> str:
    """'of arch-lab 0.1.0 (e436a2f)', as the study's own file says; 'of an earlier arch-lab' where none does."""
    for parent in (folder, *folder.parents[:3]):
        content = files.read_json(parent / STUDY)
        if isinstance(content, dict) and content.get("environment"):
            return writer_of(content).replace("by ", "of ", 1)
    return "of an earlier arch-lab"


def _holds_work(run: Path) -> bool:
    """Whether a run's folder holds what took training and is not to be thrown away: a finished result, a
    checkpoint.
    """
    if (run / RESULT).exists():
        result = sealed.read_or_none(run / RESULT)
        return result is None or Binding.read(result).status != "diverged"
    return (run / CHECKPOINT).exists()


def _names(values: Any) -> list[Any]:
    return [value["name"] if isinstance(value, dict) else value for value in values or []]


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}
