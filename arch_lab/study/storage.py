"""The folder of a study: what is stored of each run, and what a later call may do with it.

A run's folder holds ``config.json`` (its identity: everything that determines its numbers) and, once it ended, ``result.json``
with a checksum of itself, of its curve and of its weights. A result is used again for the very same identity only:

* a finished result of another identity, or a checkpoint of one, is refused before anything is written: nothing is mixed;
* a run that diverged is trained again when what determines it changed, for instance after its block was mended;
* a finished study may grow (more arms, rates or seeds); a call that would leave out what it compared is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from arch_lab import files, sealed
from arch_lab.files import OutputError
from arch_lab.judge.records import machine_name
from arch_lab.sealed import DamagedError, file_sha256
from arch_lab.study.code_identity import is_our_path
from arch_lab.study.environment import machine
from arch_lab.study.identity import differences, digest
from arch_lab.training.saving import CHECKPOINT, discard
from arch_lab.units import counted
from arch_lab.version import __version__
from blocks.dispatch import VARIABLE

CONFIG, RESULT, METRICS, MODEL, PLAN, STUDY = (
    "config.json",
    "result.json",
    "metrics.jsonl",
    "model.ckpt",
    "plan.json",
    "study.json",
)
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
PER_RUN = ("arm", "learning_rate", "seed")  # keys of an identity that say which run of an arm it is
CONDITIONS = ("torch", "threads", "operations")  # keys of an identity whose two values a refusal gives
OTHER_FOLDER = "choose another --output, or delete the folder"
ELSEWHERE = f"results are never mixed: {OTHER_FOLDER}"


# --- one run ----------------------------------------------------------------------------------------------------------


def stored_result(folder: Path, identity: Mapping[str, Any], what: str = "a run") -> dict[str, Any] | None:
    """The content of ``result.json`` when it is of this very run, or None when the run is still to be trained.

    Raises: OutputError for results of another identity; DamagedError for a file that was edited or cut short.
    """
    advice = f"delete {folder} to train this run again"
    if not (folder / RESULT).exists():
        before = files.read_json(folder / CONFIG)
        if (folder / CHECKPOINT).exists() and before is not None and digest(before) != digest(identity):
            raise OutputError(refusal(folder, _mapping(before), identity, what))
        return None
    result = sealed.read(folder / RESULT, advice=advice)
    if result.get("identity") != digest(identity):
        before = files.read_json(folder / CONFIG)
        if not isinstance(before, dict) or digest(before) != result.get("identity"):
            raise DamagedError(
                f"{folder / RESULT} is the result of another run, or {CONFIG} in its folder was edited; {advice}"
            )
        if result["status"] == "finished":
            raise OutputError(refusal(folder, before, identity, what))
        return None
    check_files(folder, result, advice=advice)
    return result


def stored_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and result of a run that ended, wherever its folder lies. Raises: DamagedError."""
    advice = f"delete {folder} and run arch-lab compare again"
    result = sealed.read(folder / RESULT, advice=advice)
    config = files.read_json(folder / CONFIG)
    if not isinstance(config, dict) or digest(config) != result.get("identity"):
        raise DamagedError(
            f"{folder / CONFIG} is missing, was edited, or belongs to another run than {RESULT}; {advice}"
        )
    check_files(folder, result, advice=advice)
    return config, result


def begin_run(folder: Path, identity: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    """Write the identity of a run that starts, or goes on; what another identity left behind is dropped and told."""
    before = files.read_json(folder / CONFIG)
    if before is not None and digest(before) != digest(identity):
        tell(f"{folder} did not finish under {_difference(_mapping(before), identity)}: it is trained again")
        (folder / RESULT).unlink(missing_ok=True)
        discard(folder / CHECKPOINT)
    if before is None or digest(before) != digest(identity):
        files.write_json(folder / CONFIG, identity)


def write_result(
    folder: Path,
    result: Mapping[str, Any],
    identity: Mapping[str, Any],
    names: Iterable[str] = (METRICS, MODEL),
) -> Any:
    """Write ``result.json``, bound to the identity, to this machine and to the files of the run; returns its content."""
    hashes = {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}
    bound = {"identity": digest(identity), "machine": machine(), "arch_lab": __version__, "files": hashes}
    return sealed.write(folder / RESULT, {**result, **bound})


def check_files(folder: Path, result: Mapping[str, Any], *, advice: str) -> None:
    """Raises: DamagedError for a file of a run that is not what the run wrote. One that was deleted is missed by who needs it."""
    for name, expected in result["files"].items():
        path = folder / name
        if path.is_file() and file_sha256(path) != expected:
            raise DamagedError(f"{path} was edited or damaged after it was written; {advice}")


def public(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without what storage added: a row of ``study.json``."""
    return {key: value for key, value in result.items() if key not in STORED}


def curve_hashes(
    results: Iterable[Mapping[str, Any]], path_of: Callable[[Mapping[str, Any]], Path]
) -> dict[str, str]:
    """Path below the study's folder -> hash, of the curve of each run: what a report checks before it draws."""
    return {(path_of(r) / METRICS).as_posix(): r["files"][METRICS] for r in results if METRICS in r["files"]}


def machine_warnings(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line when the runs of a study were made on more than one machine, with the number of runs of each."""
    runs = Counter(machine_name(result["machine"]) for result in results)
    if len(runs) < 2:
        return []
    seen = "; ".join(f"{name}: {counted(count, 'run')}" for name, count in sorted(runs.items()))
    return [
        f"runs were made on different machines ({seen}): speeds and memory of different machines are not averaged and cannot be compared, "
        "and scores may differ in their last digits"
    ]


# --- the whole study --------------------------------------------------------------------------------------------------


def refuse_changed(folder: Path, expected: Mapping[str, Mapping[str, Any]], ignored: Iterable[str]) -> None:
    """Compare what is stored of every arm with what this call would store, before anything is written.

    ``expected``: arm -> identity of its runs, the keys in ``ignored`` not yet known. Raises: as ``stored_result``.
    """
    skipped = {*PER_RUN, *ignored}
    for arm, identity in expected.items():
        for run in sorted((folder / "runs" / arm).glob("lr-*_seed-*")):
            before = files.read_json(run / CONFIG)
            if not isinstance(before, dict) or not _holds_work(run):
                continue
            old, new = ({k: v for k, v in side.items() if k not in skipped} for side in (before, identity))
            if digest(old) != digest(new):
                raise OutputError(refusal(folder, old, new, "runs"))


def refuse_smaller(
    folder: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any], keys: Iterable[str]
) -> list[str]:
    """Compare a finished study with what this call asks for; returns what it adds, in words.

    ``keys``: those of ``before`` and ``now`` that list what is compared. Raises: OutputError when this call leaves some out.
    """
    if before is None or not (folder / STUDY).exists():
        return []
    grown = []
    for key in keys:
        old, new = _names(before.get(key)), _names(now.get(key))
        lost = [str(member) for member in old if member not in new]
        if lost:
            raise OutputError(
                f"{folder} holds a finished study with {key} {', '.join(map(str, old))}; this call leaves out {', '.join(lost)} "
                f"and would replace its results: choose another --output, or delete the folder"
            )
        grown += (
            [f"{key}: {', '.join(str(member) for member in new if member not in old)}"]
            if len(new) > len(old)
            else []
        )
    return grown


def refuse_other_data(folder: Path, now: Mapping[str, Any]) -> None:
    """Raises: OutputError when runs are stored and the options of the data, their root apart, are not those of this call."""
    before = stored_config(folder)
    if before is None or not any(_holds_work(run) for run in (folder / "runs").glob("*/lr-*_seed-*")):
        return
    old, new = ({**_mapping(side.get("data")), "root": None} for side in (before, now))
    if digest(old) != digest(new):
        raise OutputError(refusal(folder, {"data": old}, {"data": new}, "runs"))


def stored_config(folder: Path) -> dict[str, Any] | None:
    """The configuration an earlier call wrote into ``plan.json``; None where there is none, or it was edited."""
    plan = sealed.read_or_none(folder / PLAN)
    config = plan.get("config") if plan else None
    return config if isinstance(config, dict) else None


def write_when_changed(path: Path, text: str) -> None:
    """Write ``text``, unless the file holds just that: a repeated call changes nothing."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (OSError, ValueError):
        pass
    files.write_text(path, text)


def refusal(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> str:
    """The line that refuses to mix results of two identities: what differs between them, and what to do."""
    if isinstance(before.get("code"), str):  # a hash of everything, before the files were recorded one by one
        return f"{folder} holds {what} {_writer(folder)}, which did not record the files that they depend on; {ELSEWHERE}"
    return f"{folder} holds {what} of {_difference(before, now)}; {_advice(before, now)}{ELSEWHERE}"


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two identities in words: 'other code (blocks/norm.py changed)'."""
    changed = differences(before, now)
    code = sorted(
        (key.removeprefix("code.") for key in changed if key.startswith("code.")),
        key=lambda path: (is_our_path(path), path),
    )
    conditions = [key for key in changed if key in CONDITIONS]
    settings = [key for key in changed if key not in conditions and not key.startswith("code.")]
    settings = [key for key in settings if key not in DERIVED] or settings
    said = [f"{_first(code + settings)} changed"] if code or settings else []
    said += [
        f"{_condition(key)}: {before.get(key) or 'none'} then, {now.get(key) or 'none'} now"
        for key in conditions
    ]
    other = "another configuration" if settings else "other code" if code else "other conditions"
    return f"{other} ({'; '.join(said)})"


def _first(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _condition(key: str) -> str:
    return VARIABLE if key == "operations" else key


def _advice(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How a call under the same conditions is made, where nothing else differs."""
    changed = differences(before, now)
    if changed == ["threads"]:
        return f"go on with --threads {before.get('threads')}; "
    if changed == ["operations"]:
        return f"go on with {VARIABLE}={before.get('operations') or ''}; "
    return ""


def _writer(folder: Path) -> str:
    """'of arch-lab 0.1.0 (e436a2f)', as the study's own file says; 'of an earlier arch-lab' where none does."""
    for parent in (folder, *folder.parents[:3]):
        environment = _mapping(_mapping(files.read_json(parent / STUDY)).get("environment"))
        if environment.get("arch_lab"):
            commit = f" ({str(environment['commit'])[:7]})" if environment.get("commit") else ""
            return f"of arch-lab {environment['arch_lab']}{commit}"
    return "of an earlier arch-lab"


def _holds_work(run: Path) -> bool:
    """Whether a run's folder holds what took training and is not to be thrown away: a finished result, a checkpoint."""
    if (run / RESULT).exists():
        result = sealed.read_or_none(run / RESULT)
        return result is None or result.get("status") != "diverged"
    return (run / CHECKPOINT).exists()


def _names(values: Any) -> list[Any]:
    return [value["name"] if isinstance(value, dict) else value for value in values or []]


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}
