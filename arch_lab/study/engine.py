"""The study engine: plan -> verify -> tune -> run -> judge -> report, each stage resumable, the gate in the middle.

No path through here writes a comparison that the gate refused or a metric for a model without its experiment's certificate.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from arch_lab import files, sealed
from arch_lab.budget import require_matched
from arch_lab.laws import PROTOCOL, LeakError
from arch_lab.models import Shape, recipe
from arch_lab.report.curves import run_path
from arch_lab.study import storage
from arch_lab.study.code_identity import conditions
from arch_lab.study.config import StudyConfig
from arch_lab.study.environment import environment, gate_fingerprint, judge_fingerprint
from arch_lab.study.executor import Executor, executor_for, spare_cores
from arch_lab.study.experiment import Certificate, Experiment, load_experiment, own_engine
from arch_lab.study.identity import digest
from arch_lab.study.initial import initial_warnings
from arch_lab.study.judgement import judge
from arch_lab.study.loggers import try_loggers
from arch_lab.study.planning import build_plan, open_study, threads_of_runs
from arch_lab.study.spec import spec_of
from blocks.errors import ConfigError

Observer = Callable[[str, dict[str, Any]], None]  # (event, facts): how a terminal follows a study


def silent(event: str, facts: dict[str, Any]) -> None:
    """The observer that shows nothing."""


def followed(terminal: Any, call: Callable[[Observer], dict[str, Any]]) -> dict[str, Any]:
    """``call`` with a terminal as its observer, which is closed however it ends."""
    try:
        return call(terminal)
    finally:
        terminal.close()


def compare(
    study: str,
    *,
    overrides: list[str] | None = None,
    output: str | Path = "runs",
    data_root: str | None = None,
    threads: int | None = None,
    cache: str | Path | None = None,
    quiet: bool = False,
    observer: Observer | None = None,
    executor: str | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Run a study to its verdict (``arch-lab compare``); finished runs of an earlier call are kept.

    ``executor``: ``inline`` (one run after the other, in this process; the default here), ``processes``
    (``workers`` runs at a time, each in a process of its own; by default as many as cores and memory allow) or
    ``auto``. ``threads``: CPU threads of each run, 1 by default. With the same number of threads the numbers do not
    depend on the executor.
    Follows along in the terminal unless ``quiet`` or another ``observer`` is given.
    Returns: the content of ``<output>/<study>/study.json``.
    Raises: UserError subclasses, one line each, before anything trains wherever that is possible.
    """
    engine = own_engine(study, overrides)
    if engine is not None:
        if executor == "processes":
            raise ConfigError(
                f"--executor processes: study {study!r} runs its trials one after the other; leave it out"
            )
        watching = silent if quiet and observer is None else observer
        return engine.compare(
            study,
            overrides=overrides or [],
            output=output,
            data_root=data_root,
            threads=threads,
            observer=watching,
        )
    if observer is None and not quiet:
        from arch_lab.study.terminal import Terminal

        given: dict[str, Any] = {
            "overrides": overrides,
            "output": output,
            "data_root": data_root,
            "threads": threads,
            "cache": cache,
        }
        given |= {"executor": executor, "workers": workers}
        return followed(Terminal(), lambda terminal: compare(study, **given, observer=terminal))
    observer = observer or silent
    with threads_of_runs(threads):
        config = open_study(study, overrides, data_root)
        folder = Path(output) / config.name
        with files.folder_lock(folder, "arch-lab compare"):
            planned = build_plan(config)
            chosen = executor_for(planned, executor, workers)
            command = command_of(study, overrides, data_root)
            return _compare(config, planned, folder, Path(cache or cache_folder()), chosen, observer, command)


def _compare(
    config: StudyConfig,
    planned: dict[str, Any],
    folder: Path,
    cache: Path,
    executor: Executor,
    observer: Observer,
    command: str,
) -> dict[str, Any]:
    """``compare`` in a folder that is locked."""
    grown = _refuse_changed(config, folder, planned)
    observer("plan", {**planned, "workers": executor.workers})
    experiment = load_experiment(config.experiment)
    data = experiment.prepare(config, cache, lambda text: observer("data", {"text": text}))
    _refuse_changed(config, folder, planned, data)
    done = _unchanged(config, folder, planned, data)
    if done is not None:
        observer(
            "note", {"text": f"already finished: {folder} holds every result, and nothing is written again"}
        )
        _report_again(folder, done, observer)
        return done
    try_loggers(config.loggers, folder, config.name, f"study {config.name!r}.loggers")
    for line in grown:
        observer("note", {"text": f"adding to the finished study in {folder}: {line}"})
    planned = _timed(config, planned, folder, data, experiment, observer)
    _keep_config(folder, config, planned)
    with spare_cores(executor):
        verify(
            planned["arms"],
            folder,
            vocabulary=data.vocabulary,
            max_tokens=planned["sequence_length"],
            certify=lambda model: experiment.certify(model, config, data),
            gate=gate_fingerprint(config.experiment),
            objective=config.objective,
            batch=config.training.batch_size,
            observer=observer,
        )
    # imported here: Lightning and TensorBoard take seconds, and no refusal should wait for them
    from arch_lab.report.tensorboard import write_experiment
    from arch_lab.study.stages import Training, TrainingContext

    write_experiment(
        folder, [a["name"] for a in planned["arms"]], config.learning_rates, config.seeds, experiment.measures
    )
    context = TrainingContext(config, folder, cache, data.fingerprint, data)
    context.open()
    with closing(executor):
        results, rates = Training(planned, context, executor, observer).train_all()
    judged = _judge(planned, config, results, rates, data, experiment, observer)
    identity = _study_identity(config, planned, data)
    study_json = sealed.write(folder / storage.STUDY, {**judged, "command": command, "identity": identity})
    _report(folder, study_json)
    observer("report", _shown(folder, study_json))
    return study_json


# --- what an earlier call left ----------------------------------------------------------------------------------------


def _refuse_changed(
    config: StudyConfig, folder: Path, planned: dict[str, Any], data: Any = None
) -> list[str]:
    """Refuse a study that does not go with what the folder holds; returns in words what it adds to a finished one.

    Without ``data`` (nothing is prepared yet) their fingerprint is not compared but their options are.
    """
    grown = storage.refuse_smaller(
        folder, storage.stored_config(folder), config.to_dict(), ("arms", "learning_rates", "seeds")
    )
    unknown = [] if config.budget.seconds is None else ["steps"]  # an estimate until real steps are timed
    if data is None:
        storage.refuse_other_data(folder, config.to_dict())
        unknown += ["data", "vocabulary"]
    rate, seed = config.learning_rates[0], config.seeds[0]
    specs = [
        spec_of(arm, rate, seed, config, planned["vocabulary"] if data is None else data.vocabulary)
        for arm in planned["arms"]
    ]
    storage.refuse_changed(
        folder, {spec.arm: spec.identity("" if data is None else data.fingerprint) for spec in specs}, unknown
    )
    return grown


def _study_identity(config: StudyConfig, planned: dict[str, Any], data: Any) -> str:
    """Hash of all that study.json follows from."""
    code = {arm["name"]: arm["code"] for arm in planned["arms"]}
    judge = judge_fingerprint(config.experiment)
    return digest(
        {
            "config": config.to_identity(),
            "data": data.fingerprint,
            "code": code,
            "judge": judge,
            **conditions(),
        }
    )


def _unchanged(
    config: StudyConfig, folder: Path, planned: dict[str, Any], data: Any
) -> dict[str, Any] | None:
    """The stored study where this very call has already ended and every result is there; None otherwise.

    Raises: DamagedError for a result, a curve or weights that are not what was written.
    """
    stored = sealed.read_or_none(folder / storage.STUDY)
    if stored is None or stored.get("identity") != _study_identity(config, planned, data):
        return None
    steps = {arm["name"]: arm for arm in stored["arms"]}
    for row in stored["results"]:
        spec = spec_of(steps[row["arm"]], row["learning_rate"], row["seed"], config, data.vocabulary)
        result = storage.stored_result(spec.folder(folder), spec.identity(data.fingerprint))
        if result is None or storage.public(result) != row:
            return None
    return stored


def _report_again(folder: Path, study_json: dict[str, Any], observer: Observer) -> None:
    """Write only what is missing of the report."""
    if not (folder / "report.html").is_file() or not (folder / "results.csv").is_file():
        _report(folder, study_json)
    observer("report", _shown(folder, study_json))


def _timed(
    config: StudyConfig,
    planned: dict[str, Any],
    folder: Path,
    data: Any,
    experiment: Experiment,
    observer: Observer,
) -> dict[str, Any]:
    """The plan with real steps timed, where the budget is in seconds; once timed, a study keeps its numbers of steps."""
    if config.budget.seconds is None:
        return planned
    from arch_lab.study import calibration

    timings = calibration.kept(sealed.read_or_none(folder / storage.PLAN), planned)
    for arm in planned["arms"]:
        if arm["name"] not in timings:
            observer("data", {"text": f"timing training steps of {arm['name']}"})
            timings[arm["name"]] = calibration.seconds_per_step(arm, config, data, experiment)
    planned = build_plan(config, timings)
    observer("plan", planned)
    return planned


def cache_folder() -> Path:
    """Where token files live: ARCH_LAB_CACHE, else the user's cache folder."""
    base = os.environ.get("ARCH_LAB_CACHE")
    return (
        Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arch_lab"
    )


def _keep_config(folder: Path, config: StudyConfig, planned: dict[str, Any]) -> None:
    """The resolved study beside its results, runnable as it is, and its plan."""
    import yaml

    storage.write_when_changed(
        folder / "study.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    )
    arms = [
        {k: v for k, v in arm.items() if k != "estimate"} for arm in planned["arms"]
    ]  # an estimate is another each time
    identity = digest({"config": config.to_dict(), "arms": arms})
    before = sealed.read_or_none(folder / storage.PLAN)
    if before is None or before.get("identity") != identity:
        sealed.write(folder / storage.PLAN, {**planned, "config": config.to_dict(), "identity": identity})


# --- verify ---------------------------------------------------------------------------------------------------------


def verify(
    arms: list[dict[str, Any]],
    folder: Path,
    *,
    vocabulary: int,
    max_tokens: int,
    certify: Callable[[Any], Certificate],
    gate: str,
    observer: Observer,
    objective: dict[str, Any] | None = None,
    batch: int | None = None,
) -> None:
    """The certificate of every built model. Raises: LeakError with the arm and what leaks; no metric exists yet."""
    for arm in arms:
        path = folder / "certificates" / f"{arm['name']}.json"
        identity = {k: arm[k] for k in ("architecture", "options", "width", "depth", "ffn_width")}
        identity |= {
            "vocabulary": vocabulary,
            "max_tokens": max_tokens,
            "batch": batch,
            "protocol": PROTOCOL,
            "code": digest(arm["code"]),
        }
        identity |= {"objective": objective} if objective else {}
        identity |= {
            "gate": gate,
            **{name: value for name, value in conditions().items() if name != "threads"},
        }
        kept = sealed.read_or_none(files.inside(folder, path))
        if kept and kept.get("passed") and kept.get("identity") == identity:
            observer("certificate", {"arm": arm["name"], **kept})
            continue
        model = recipe(arm["architecture"], arm["options"]).model(
            _shape(arm), vocabulary=vocabulary, max_tokens=max_tokens
        )
        observer("data", {"text": f"certifying {arm['name']}"})
        certificate = certify(model)
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in certificate.to_dict().items()
        }
        sealed.write(path, {"identity": identity, **finite})
        observer("certificate", {"arm": arm["name"], **certificate.to_dict()})
        if not certificate.passed:
            raise LeakError(
                f"refused: arm {arm['name']!r}: {certificate.reason}; no metric is written (certificate in {path})"
            )


def _shape(arm: dict[str, Any]) -> Shape:
    return Shape(width=arm["width"], depth=arm["depth"], ffn_width=arm["ffn_width"])


# --- judge and report -----------------------------------------------------------------------------------------------


def _judge(
    planned: dict[str, Any],
    config: StudyConfig,
    results: list[dict[str, Any]],
    rates: list[float],
    data: Any,
    experiment: Experiment,
    observer: Observer,
) -> dict[str, Any]:
    """Selection on the tuning split, intervals on the held-out one, baselines beside them; the gate once more.

    Raises: BudgetError when arms are not matched, or runs did not train what the plan says, and nothing overrides it.
    """
    planned = {
        k: v for k, v in require_matched({**planned, "results": results}, "study").items() if k != "results"
    }
    observer("baselines", {})
    baselines = experiment.baselines(config, data)
    arms = [a["name"] for a in planned["arms"]]
    judged = judge(
        results, arms, experiment.measures, baselines, budget=planned["budget"], matched=planned["matched"]
    )
    return {
        **planned,
        "learning_rates": rates,
        "results": [storage.public(r) for r in results],
        "curves": storage.curve_hashes(results, lambda r: run_path(Path(), r)),
        "baselines": baselines,
        **judged,
        "warnings": [
            *judged["warnings"],
            *_clock_warnings(planned, results),
            *initial_warnings(planned["arms"]),
            *storage.machine_warnings(results),
        ],
        "data": data.summary(),
        "environment": environment(),
    }


def _clock_warnings(planned: dict[str, Any], results: list[dict[str, Any]]) -> list[str]:
    """Arms whose runs took another time than the budget in seconds: a busy machine is not the same machine."""
    target, said = planned["budget"].get("seconds"), []
    for arm in planned["arms"] if target else ():
        taken = sorted(r["seconds"] for r in results if r["arm"] == arm["name"] and r["status"] == "finished")
        if taken and abs(taken[len(taken) // 2] / target - 1) > planned["tolerance"]:
            middle = taken[len(taken) // 2]
            said.append(
                f"{arm['name']} trained for {middle:.3g} s (median run), {middle / target - 1:+.1%} off budget.seconds {target:g}: "
                "its steps were fixed by a timing taken before; compare seconds only on an idle machine"
            )
    return said


def command_of(study: str, overrides: list[str] | None, data_root: str | None) -> str:
    words = ["arch-lab", "compare", study, *(w for o in overrides or [] for w in ("--set", o))]
    return shlex.join([*words, *(["--data-root", data_root] if data_root else [])])


def _report(folder: Path, study_json: dict[str, Any]) -> None:
    from arch_lab.report import tables, write
    from arch_lab.report.tensorboard import write_figures

    tables.write_csv(study_json, folder / "results.csv")
    write(folder)
    write_figures(folder, study_json)


def _shown(folder: Path, study_json: dict[str, Any]) -> dict[str, Any]:
    """Facts of the event ``report``."""
    return {"study": study_json, "report": str(folder / "report.html"), "folder": str(folder)}
