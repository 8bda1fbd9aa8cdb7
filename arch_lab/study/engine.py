"""The study engine: plan -> certify -> tune -> run -> judge, each stage resumable, the gate in the middle.

No path through here writes a comparison that the gate refused, or a score of a model without its certificate.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from arch_lab import files, sealed
from arch_lab.judge.records import Choice, Record
from arch_lab.laws import PROTOCOL, LeakError
from arch_lab.memory import release_memory
from arch_lab.stored import Json
from arch_lab.study import storage
from arch_lab.study.code_identity import conditions
from arch_lab.study.config import StudyConfig, TrainingStudyConfig, TunedStudyConfig, from_study
from arch_lab.study.earlier import with_earlier
from arch_lab.study.environment import environment, gate_fingerprint, judge_fingerprint
from arch_lab.study.estimate import threads_of_trials
from arch_lab.study.executor import Executor, executor_for, spare_cores
from arch_lab.study.experiment import load_experiment
from arch_lab.study.identity import digest
from arch_lab.study.library import find_study
from arch_lab.study.loggers import check_loggers, try_loggers
from arch_lab.study.open_study import OpenStudy
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.recheck import matched_plan
from arch_lab.study.study import STUDY, Study, parse_study, study_of
from arch_lab.study.study_file import read_study
from arch_lab.study.trial import Observer

if TYPE_CHECKING:
    from arch_lab.study.stages import Stages

LISTS = ("tasks", "learning_rates", "seeds")  # keys of a configuration whose entries may only grow


def silent(event: str, facts: Json) -> None:
    """The observer that shows nothing."""


def open_study(study: str, overrides: list[str] | None = None, data_root: str | None = None) -> OpenStudy:
    """Find, parse and validate a study by name or path. Reads no data. Raises: ConfigError."""
    name, path = find_study(study)
    content = read_study(path, name=name, overrides=overrides or [])
    key = content.get("experiment", TrainingStudyConfig.experiment)
    if not isinstance(key, str):
        from_study(StudyConfig, {k: content[k] for k in ("name", "experiment")}, name)  # refuses it
    experiment = load_experiment(key)
    if data_root is not None:
        content = experiment.config.with_data_root(content, data_root)
    config = from_study(experiment.config, content, name)
    if isinstance(config, TunedStudyConfig):
        check_loggers(config.loggers, f"study {name!r}.loggers")
    return experiment.open(config)


def plan(
    study: str,
    *,
    overrides: list[str] | None = None,
    data_root: str | None = None,
    threads: int | None = None,
) -> Plan:
    """The plan of a study by name or path, without training (``arch-lab plan``).

    Raises: BudgetError when an arm cannot meet the budget; ConfigError for options that do not fit.
    """
    planned, _ = plan_and_workers(study, overrides=overrides, data_root=data_root, threads=threads)
    return planned


def plan_and_workers(
    study: str,
    *,
    overrides: list[str] | None = None,
    data_root: str | None = None,
    threads: int | None = None,
    executor: str | None = None,
) -> tuple[Plan, int]:
    """As ``plan``, with the number of trials that would run at a time. ``executor``: as in ``compare``."""
    opened = open_study(study, overrides, data_root)
    with threads_of_trials(_threads(opened, threads), one=opened.in_processes):
        planned = with_earlier(opened.plan(lambda text: None), Path("runs"))
        return planned, executor_for(planned, opened, executor, None).workers


def compare(
    study: str,
    *,
    overrides: list[str] | None = None,
    output: str | Path = "runs",
    data_root: str | None = None,
    threads: int | None = None,
    cache: str | Path | None = None,
    observer: Observer = silent,
    executor: str | None = None,
    workers: int | None = None,
) -> Study:
    """Run a study to its verdict and write study.json; finished trials of an earlier call are kept.

    ``executor``: ``inline`` (one trial after the other, in this process; the default here), ``processes``
    (``workers`` trials at a time, each in a process of its own; by default as many as cores and memory allow) or
    ``auto``. ``threads``: CPU threads of each trial, 1 by default. With the same number of threads the numbers do not
    depend on the executor.
    Raises: UserError subclasses, one line each, before anything trains wherever that is possible.
    """
    opened = open_study(study, overrides, data_root)
    folder = Path(output) / opened.config.name
    call = _Call(opened, folder, Path(cache or cache_folder()), observer)
    with (
        threads_of_trials(_threads(opened, threads), one=opened.in_processes),
        files.folder_lock(folder, "arch-lab compare"),
    ):
        return call.run(command_of(study, overrides, data_root), executor, workers)


def _threads(opened: OpenStudy, threads: int | None) -> int | None:
    return threads if threads is not None else getattr(opened.config, "threads", None)


def cache_folder() -> Path:
    """Where token files live: ARCH_LAB_CACHE, else the user's cache folder."""
    base = os.environ.get("ARCH_LAB_CACHE")
    return (
        Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arch_lab"
    )


def command_of(study: str, overrides: list[str] | None, data_root: str | None) -> str:
    """The command line that runs a study."""
    changes = [word for override in overrides or [] for word in ("--set", override)]
    root = ["--data-root", data_root] if data_root else []
    return shlex.join(["arch-lab", "compare", study, *changes, *root])


@dataclass
class _Call:
    """One call of ``compare`` in a folder that is locked."""

    opened: OpenStudy
    folder: Path
    cache: Path
    observer: Observer

    @property
    def config(self) -> StudyConfig:
        config: StudyConfig = self.opened.config
        return config

    def run(self, command: str, executor_name: str | None, workers: int | None) -> Study:
        opened, config = self.opened, self.config
        storage.refuse_other_settings(self.folder, opened.settings, config.to_json(), opened.noun)
        grown = self._refuse_smaller()
        plan = opened.planned = with_earlier(opened.plan(self._data), self.folder.parent)
        grown += self._refuse_fewer_arms(plan)
        self._refuse_changed()
        executor = executor_for(plan, opened, executor_name, workers)
        self.observer("plan", {"plan": plan, "workers": executor.workers})
        opened.prepare(plan, self.cache, self._data)
        self._refuse_changed()
        stored = self._unchanged()
        if stored is not None:
            text = f"already finished: {self.folder} holds every result, and nothing is written again"
            self.observer("note", {"text": text})
            return stored
        if isinstance(config, TunedStudyConfig):
            try_loggers(config.loggers, self.folder, config.name, f"study {config.name!r}.loggers")
        for line in grown:
            self.observer("note", {"text": f"adding to the finished study in {self.folder}: {line}"})
        self._calibrate(executor)
        self._keep_config()
        with spare_cores(executor):
            self._certify()
        release_memory()  # worker processes may need it
        with closing(executor):
            study = self._finish(executor, command)
        sealed.write(self.folder / STUDY, study.to_json())
        return study

    def _data(self, text: str) -> None:
        self.observer("data", {"text": text})

    # --- what an earlier call left ------------------------------------------------------------------------------------

    def _refuse_smaller(self) -> list[str]:
        """Refuse a study that leaves out what the folder holds; returns in words what it adds to a finished one."""
        return storage.refuse_smaller(
            self.folder, storage.stored_config(self.folder), self.config.to_json(), LISTS
        )

    def _refuse_fewer_arms(self, plan: Plan) -> list[str]:
        """As ``_refuse_smaller``, of the arms: a configuration may leave them out to mean all."""
        names = {"arms": [arm.name for arm in plan.arms]}
        return storage.refuse_smaller(self.folder, storage.stored_names(self.folder), names, ("arms",))

    def _refuse_changed(self) -> None:
        """Refuse a plan that does not go with the trials in the folder."""
        plan, opened = self.opened.planned, self.opened
        storage.refuse_changed(
            self.folder,
            [arm.name for arm in plan.arms],
            [task.name for task in plan.tasks],
            opened.identity,
            unknown=opened.unknown,
            noun=opened.noun,
        )

    def _identity(self) -> str:
        """Hash of all that study.json follows from."""
        plan = self.opened.planned
        return digest(
            {
                "config": self.config.to_identity(),
                "data": self._fingerprints(),
                "absent": plan.absent,
                "code": {arm.name: arm.code for arm in plan.arms},
                "judge": judge_fingerprint(self.config.experiment),
                **conditions(),
            }
        )

    def _fingerprints(self) -> dict[str, str]:
        return {task.name: self.opened.fingerprint(task.name) for task in self.opened.planned.tasks}

    def _unchanged(self) -> Study | None:
        """The stored study where this very call has already ended and every result is there; None otherwise.

        Raises: DamagedError for a result, a curve or weights that are not what was written.
        """
        content = sealed.read_or_none(self.folder / STUDY)
        if content is None or content.get("identity") != self._identity():
            return None
        study = parse_study(content, self.folder / STUDY)
        plan = self.opened.planned
        self.opened.planned = study  # whose steps were fixed by the timing of the first call
        try:
            every = [*study.results, *study.control_results]
            return study if self._stored_records(every) == every else None
        finally:
            self.opened.planned = plan

    def _stored_records(self, wanted: Sequence[Record]) -> list[Record] | None:
        """Stored records of the trials of ``wanted``; None when one is missing."""
        records: list[Record] = []
        for trial in dict.fromkeys(self.opened.trial_of(record) for record in wanted):
            result = storage.stored_result(trial.folder(self.folder), self.opened.identity(trial))
            if result is None:
                return None
            records += storage.records_of(result)
        return records

    # --- before anything is trained -----------------------------------------------------------------------------------

    def _calibrate(self, executor: Executor) -> None:
        stored = storage.stored_plan(self.folder)
        plan = self.opened.calibrate(self.opened.planned, stored, self._data)
        if plan is not self.opened.planned:
            self.opened.planned = plan
            self.observer("plan", {"plan": plan, "workers": executor.workers})

    def _keep_config(self) -> None:
        """The resolved study beside its results, runnable as it is, and its plan."""
        config, plan = self.config.to_json(), self.opened.planned
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        storage.write_when_changed(self.folder / "study.yaml", text)
        # an estimate is another each time
        arms = [replace(arm, estimate=None).to_json() for arm in plan.arms]
        identity = digest({"config": config, "arms": arms})
        stored = sealed.read_or_none(self.folder / storage.PLAN)
        if stored is None or stored.get("identity") != identity:
            sealed.write(
                self.folder / storage.PLAN, {**plan.to_json(), "config": config, "identity": identity}
            )

    def _certify(self) -> None:
        """The certificate of every model that will train. Raises: LeakError with the arm and what leaks; no score exists yet."""
        self._certify_models(self.opened.planned.shapes)

    def _certify_models(self, models: Sequence[PlannedArm]) -> None:
        for arm in models:
            identity = self.opened.certificate_identity(arm)
            if identity:
                self._certify_arm(arm, {**identity, **self._gate(arm)})

    def _gate(self, arm: PlannedArm) -> Json:
        gate = gate_fingerprint(self.config.experiment)
        others = {name: value for name, value in conditions().items() if name != "threads"}
        return {"protocol": PROTOCOL, "code": digest(arm.code), "gate": gate, **others}

    def _certify_arm(self, arm: PlannedArm, identity: Json) -> None:
        path = self.folder / "certificates" / f"{arm.name.replace(' ', '-')}.json"
        stored = sealed.read_or_none(files.inside(self.folder, path))
        if stored and stored.get("passed") and stored.get("identity") == identity:
            self.observer("certificate", {**stored, "arm": arm.name})
            return
        self._data(f"certifying {arm.name}")
        certificate = self.opened.certify(arm)
        content = certificate.to_dict()
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in content.items()}
        sealed.write(path, {"identity": identity, **finite})
        self.observer("certificate", {**content, "arm": arm.name})
        if not certificate.passed:
            raise LeakError(
                f"refused: arm {arm.name!r}: {certificate.reason}; no metric is written (certificate in {path})"
            )

    # --- trials and verdict -------------------------------------------------------------------------------------------

    def _finish(self, executor: Executor, command: str) -> Study:
        # imported here: Lightning and TensorBoard take seconds, and no refusal should wait for them
        from arch_lab.study.events import write_experiment
        from arch_lab.study.stages import Stages, StudyContext

        opened = self.opened
        write_experiment(self.folder, opened.planned)
        context = StudyContext(
            self.config, opened.planned, self.folder, self.cache, self._fingerprints(), opened
        )
        context.open()
        stages = Stages(context, executor, self.observer, self._certify_models)
        records = stages.run_all()
        plan = stages.grown()
        plan = matched_plan(plan, records, "study")
        notes = opened.finish(self.folder, _reported(stages, records), self._data)
        self.observer("baselines", {})
        baselines = opened.baselines()
        trials = list(stages.results)
        return study_of(
            plan,
            opened.judge(plan, [r for r in records if r.seed not in plan.twins], baselines),
            records,
            baselines=baselines,
            notes=notes,
            curves=storage.curve_hashes(self.folder, trials, stages.results.values()),
            data=opened.data_summary(),
            environment=environment(),
            command=command,
            identity=self._identity(),
            warnings=tuple(storage.machine_warnings(records)),
        )


def _reported(stages: Stages, records: list[Record]) -> list[Record]:
    """The records of the choices that were made."""
    selected = {task: stages.selected(task) for task in stages.choices}
    return [r for r in records if r.choice == selected[r.task].get(r.arm, Choice())]
