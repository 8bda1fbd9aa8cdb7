"""Experiments that train every arm once at one budget, and the studies of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from arch_lab import files
from arch_lab.data import DataConfig
from arch_lab.judge.measures import Measure
from arch_lab.judge.records import FINISHED, Baseline, Judgement, Record
from arch_lab.judge.where import where_it_lies
from arch_lab.models import recipe
from arch_lab.models.model import Kind
from arch_lab.stored import Facts, Json
from arch_lab.study.config import Arm, TrainingStudyConfig, naming_keys
from arch_lab.study.experiment import NoOptions
from arch_lab.study.forecast import check_forecast, tested
from arch_lab.study.identity import digest
from arch_lab.study.initial import initial_warnings, with_initial
from arch_lab.study.judged_sizes import FORECAST, judged_sizes
from arch_lab.study.open_study import Certificate, Experiment, OpenStudy, Progress
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.planning import build_plan, recipes_of
from arch_lab.study.search import LEARNING_RATE
from arch_lab.study.spec import RunSpec, spec_of
from arch_lab.study.trial import SAMPLES, TRUNKS, Job, Trial
from arch_lab.training.trunk import Trunk
from blocks.config import Config

if TYPE_CHECKING:  # seconds to import, and no refusal of a study should wait for it
    import lightning.pytorch as pl


def with_head_width(arm: Arm, head_width: int | None) -> Arm:
    """The arm with heads as wide as the rule of shapes says, where it has heads and does not size them itself."""
    sized = {"head_width", "heads"} & arm.options.keys()
    if head_width is None or sized or not hasattr(arm.recipe(), "head_width"):
        return arm
    return replace(arm, options={**arm.options, "head_width": head_width})


class TrainingExperiment(Experiment):
    """Objective, data and measures of one question whose arms are models, each trained once at the study's budget.

    The first of ``measures`` is what a learning rate is chosen by and what a verdict is about. ``kind``: of the models.
    ``has_regime``: whether its plans state tokens per parameter, as those of language models do.
    ``data`` and ``objective``: the keys of these names in a study. ``spec`` is a RunSpec everywhere, ``config`` a TrainingStudyConfig.
    """

    config = TrainingStudyConfig
    measures: ClassVar[tuple[Measure, ...]]
    kind: ClassVar[Kind] = "decoder"
    has_regime: ClassVar[bool] = False
    data: ClassVar[type[Config]] = DataConfig
    objective: ClassVar[type[Config]] = NoOptions

    def open(self, config: TrainingStudyConfig) -> TrainingStudy:
        where, options = f"study {config.name!r}", config.data
        with naming_keys(config.name):
            if isinstance(options, dict):
                options = self.data.from_options(options, where=f"{where}.data")
            objective = self.objective.from_options(config.objective, where=f"{where}.objective")
        arms = [with_head_width(arm, config.budget.shapes.head_width) for arm in config.arms]
        config = with_initial(replace(config, arms=arms, data=options, objective=asdict(objective)))
        recipes_of(config.arms, config.experiment, self.kind)
        return TrainingStudy(self, self.resolve(config))

    def resolve(self, config: TrainingStudyConfig) -> TrainingStudyConfig:
        """The study with what its data decide filled in. Raises: ConfigError for options that contradict them."""
        return config

    @abstractmethod
    def vocabulary(self, data: Any) -> int:
        """Rows of the token table for the options of ``data``, before any text is read."""

    @abstractmethod
    def prepare(self, config: Any, cache: Path, progress: Callable[[str], None]) -> Any:
        """Data of the study, with attributes ``fingerprint`` and ``vocabulary`` and a method ``summary``. Raises: UserError."""

    @abstractmethod
    def certify(self, model: Any, config: Any, data: Any) -> Certificate:
        """What the built model of an arm must pass before anything is trained. Never changes it."""

    @abstractmethod
    def module(self, spec: RunSpec) -> pl.LightningModule:
        """The LightningModule of one run; its attribute ``model`` is the arm's model."""

    @abstractmethod
    def datamodule(self, spec: RunSpec, data: Any) -> pl.LightningDataModule:
        """The data of one run, in an order that is a function of (seed, step)."""

    def scores(
        self, trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule
    ) -> dict[str, float]:
        """Every measure on the held-out split, and ``tune_<first measure>`` on the tune split.

        By default from the trainer's validation loop, which logs ``tune/<key>``, and its test loop, which logs ``final/<key>``.
        """
        (tune,) = trainer.validate(module, datamodule=datamodule, verbose=False)
        (final,) = trainer.test(module, datamodule=datamodule, verbose=False)
        primary = self.measures[0]
        scores = {m.key: final[f"final/{m.key}"] for m in self.measures if f"final/{m.key}" in final}
        return {**scores, primary.tuned: tune[f"tune/{primary.key}"]}

    def facts(
        self, trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule
    ) -> Facts:
        """What else a finished trial says, for the experiment's own sections of the report; after ``scores``."""
        return {}

    def baselines(self, config: Any, data: Any) -> Sequence[Baseline]:
        """Trivial models under the same scoring, worst first."""
        return ()

    def sample(self, run: Path, data: Any) -> dict[str, str] | None:
        """What the model of a finished run writes: ``prompt`` and ``text``; None where it writes nothing."""
        return None


class TrainingStudy(OpenStudy):
    """One study of a TrainingExperiment."""

    config: TrainingStudyConfig

    def __init__(self, experiment: TrainingExperiment, config: TrainingStudyConfig) -> None:
        super().__init__(config)
        self.experiment = experiment
        self.data: Any = None

    @property
    def unknown(self) -> tuple[str, ...]:
        data = () if self.data is not None else ("data", "vocabulary")
        timed = self.config.budget.seconds is not None  # steps are an estimate until real ones are timed
        return (*data, "steps") if timed else data

    def plan(self, progress: Progress) -> Plan:
        plan = build_plan(self.config, self.experiment)
        if self.config.forecast is not None:
            check_forecast(self.config.forecast, plan)
        return plan

    def settings(self, config: Json) -> Json:
        data = config.get("data")
        return {"data": {**data, "root": None} if isinstance(data, dict) else None}

    def prepare(self, plan: Plan, cache: Path, progress: Progress) -> None:
        self.data = self.experiment.prepare(self.config, cache, progress)

    def calibrate(self, plan: Plan, previous: Plan | None, progress: Progress) -> Plan:
        """The plan with real steps timed, where the budget is in seconds; once timed, a study keeps its numbers of steps."""
        if self.config.budget.seconds is None:
            return plan
        from arch_lab.study import calibration

        timings = calibration.measured_before(previous, plan)
        for arm in plan.arms:
            if arm.name not in timings:
                progress(f"timing training steps of {arm.name}")
                rate = [*self.config.rates, *(d.values[LEARNING_RATE] for d in plan.grid.draws)][0]
                trial = Trial(arm=arm.name, learning_rate=rate, seed=self.config.seeds[0])
                timings[arm.name] = calibration.seconds_per_step(
                    self.spec(trial, arm), self.experiment, self.data
                )
        return build_plan(self.config, self.experiment, timings)

    def certificate_identity(self, arm: PlannedArm) -> Json:
        objective = {"objective": self.config.objective} if self.config.objective else {}
        return {
            "architecture": arm.architecture,
            "options": arm.options,
            **asdict(arm.shape),
            "vocabulary": self.data.vocabulary,
            "max_tokens": self.config.training.sequence_length,
            "batch": self.config.training.batch_size,
            **objective,
        }

    def certify(self, arm: PlannedArm) -> Certificate:
        model = recipe(arm.architecture, arm.options).model(
            arm.shape, vocabulary=self.data.vocabulary, max_tokens=self.config.training.sequence_length
        )
        return self.experiment.certify(model, self.config, self.data)

    def fingerprint(self, task: str) -> str:
        return "" if self.data is None else str(self.data.fingerprint)

    def spec(self, trial: Trial, arm: PlannedArm | None = None) -> RunSpec:
        """The run of a trial. ``arm``: of a plan that is not the study's yet."""
        vocabulary = self.planned.vocabulary if self.data is None else self.data.vocabulary
        assert vocabulary is not None
        model = arm or self.planned.model(trial.arm, trial.size, trial.task)
        return spec_of(model, trial, self.config, self.planned.grid, vocabulary)

    def identity(self, trial: Trial) -> Json:
        return self.spec(trial).identity(self.fingerprint(""))

    def run(self, trial: Trial, job: Job) -> Record:
        from arch_lab.study.run import train

        spec = self.spec(trial)
        return train(spec, job, self.experiment, self.data, self._trunk(spec, trial, job))

    def _trunk(self, spec: RunSpec, trial: Trial, job: Job) -> Trunk | None:
        """Of a run of several budgets under WSD; other schedules change with the length."""
        if len(self.planned.budgets) < 2 or trial.size is None or spec.training.schedule != "wsd":
            return None
        own = {"task": "", "steps": 0}
        shared = digest({**spec.identity(self.fingerprint("")), **own})
        folder = replace(trial, task="").folder(job.study_folder / TRUNKS)
        return Trunk(folder=folder, identity=shared, stable=spec.stable_steps)

    def work(self, trial: Trial) -> float:
        """FLOPs of a run."""
        return float(self.planned.model(trial.arm, trial.size, trial.task).train_flops or 1)

    def baselines(self) -> tuple[Baseline, ...]:
        return tuple(self.experiment.baselines(self.config, self.data))

    def finish(self, study_folder: Path, records: Sequence[Record], progress: Progress) -> tuple[str, ...]:
        """A sample of each arm, from its first finished run at the chosen learning rate, for the report."""
        finished = [record for record in records if record.status == FINISHED]
        for record in {record.arm: record for record in reversed(finished)}.values():
            progress(f"sampling {record.arm}")
            sample = self.experiment.sample(self.trial_of(record).folder(study_folder), self.data)
            if sample is not None:
                files.write_json(study_folder / SAMPLES / f"{record.arm}.json", sample)
        return ()

    def judge(self, plan: Plan, records: Sequence[Record], baselines: Sequence[Baseline]) -> Judgement:
        judgement = super().judge(plan, records, baselines)
        reported = [r for r in records if is_last_reported(judgement, plan, r)]
        verdict = replace(judgement.verdict, where=where_it_lies(reported))
        judgement = replace(judgement, verdict=verdict)
        if plan.sizes:
            judgement = judged_sizes(judgement, plan, records)
        if self.config.forecast is not None:
            outcome = tested(self.config.forecast, plan, judgement).to_json()
            judgement = replace(judgement, details={**judgement.details, FORECAST: outcome})
        more = [*clock_warnings(plan, records), *initial_warnings(plan.arms)]
        return replace(judgement, warnings=(*judgement.warnings, *more))

    def data_summary(self) -> Facts:
        summary: Facts = self.data.summary()
        return summary

    def outcome(self, records: Sequence[Record], plan: Plan) -> str:
        speed = records[0].tokens_per_second
        return super().outcome(records, plan) + ("" if speed is None else f", {speed:,.0f} tokens/s")


def is_last_reported(judgement: Judgement, plan: Plan, record: Record) -> bool:
    """Whether a record is of what its arm is reported at, at the largest budget."""
    chosen = {(s.task, s.arm): s.choice for s in judgement.summary}
    return record.task == plan.tasks[-1].name and chosen.get((record.task, record.arm)) == record.choice


def clock_warnings(plan: Plan, records: Sequence[Record]) -> list[str]:
    """Arms whose runs took another time than the budget in seconds: a busy machine is not the same machine."""
    target, lines = float(plan.budget.get("seconds") or 0), []
    for arm in plan.arms if target else ():
        times = sorted(
            r.seconds for r in records if r.arm == arm.name and r.status == FINISHED and r.seconds is not None
        )
        middle = times[len(times) // 2] if times else target
        if abs(middle / target - 1) > (plan.tolerance or 0):
            lines.append(
                f"{arm.name} trained for {middle:.3g} s (median run), {middle / target - 1:+.1%} off budget.seconds {target:g}: "
                "its steps were fixed by a timing taken before; compare seconds only on an idle machine"
            )
    return lines
