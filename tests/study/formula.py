"""A study over tasks whose scores are a formula: no data, no network, a known answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any

import yaml

from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.records import Record
from arch_lab.study.engine import compare
from arch_lab.study.open_study import Experiment, Progress
from arch_lab.study.plan import PlannedArm
from arch_lab.study.study import Study
from arch_lab.study.task_study import Fitted, TaskStudy, TaskStudyConfig
from arch_lab.study.trial import Job, Trial

ACCURACY = Measure(key="accuracy", name="accuracy", higher_is_better=True)
ERROR = Measure(key="error", name="error")
F1 = Measure(key="f1", name="F1", higher_is_better=True)
WORTH = {"strong": (0.9, 0.004), "weak": (0.6, 0.002)}  # what an arm is worth at its best rate, and that rate
DIVERGES = ("weak", 0.016)
TASKS = (
    Task(name="easy", measures=(ACCURACY, F1), counted=("accuracy", "f1"), facts={"dev": 1000}),
    Task(name="hard", measures=(ERROR,)),
    Task(name="third", measures=(ACCURACY,), counted=("accuracy",)),
)
ARMS = (
    PlannedArm(name="weak", facts={"parameters": 1_000_000}),
    PlannedArm(name="strong", facts={"parameters": 1_000_000}),
    PlannedArm(name="closed", tuned=False, tasks=("easy", "third")),
    PlannedArm(name="constant", tuned=False, seeded=False, baseline=True),
)


@dataclass(frozen=True, kw_only=True)
class FormulaConfig(TaskStudyConfig):
    """``gain``: factor of every score; ``interrupted``: label of a trial in which Ctrl-C is pressed."""

    CHOOSES = (*TaskStudyConfig.CHOOSES, "interrupted")

    gain: float = 1.0
    interrupted: str = ""


class FormulaStudy(TaskStudy):
    """Scores fall with the distance of the rate from the best one (in octaves), and move with the seed."""

    config: FormulaConfig

    def read(self, progress: Progress) -> None:
        self.tasks = tuple(task for task in TASKS if task.name in self.config.tasks)
        self.absent = {"qqp": "no train.tsv in QQP"}
        self.arms = ARMS

    def fingerprint(self, task: str) -> str:
        return f"data of {task}"

    def fit(self, trial: Trial, job: Job) -> Fitted:
        if trial.label == self.config.interrupted:
            raise KeyboardInterrupt
        job.detail("half way")
        if (trial.arm, trial.learning_rate) == DIVERGES:
            return Fitted(scores=None)
        value = self.config.gain * worth(trial)
        score = 1 - value if trial.task == "hard" else value
        keys = [measure.key for task in TASKS if task.name == trial.task for measure in task.measures]
        # the reported split disagrees with the tuning one about which rate is best: nobody may notice
        flattery = 0.5 if trial.learning_rate == 0.001 else 0.0
        scores = {key: score + flattery - (0.1 if key == "f1" else 0.0) for key in keys}
        curve = ((1, "train/loss", 2.0), (2, "train/loss", 1.0), (2, f"tune/{keys[0]}", score))
        return Fitted(scores=scores, tuned=score, facts={"seconds": 1.5}, curve=curve)

    def finish(self, study_folder: Path, records: Sequence[Record], progress: Progress) -> tuple[str, ...]:
        folders = [self.trial_of(record).folder(study_folder) for record in records if record.arm == "strong"]
        return tuple(folder.relative_to(study_folder).as_posix() for folder in folders if folder.is_dir())


def worth(trial: Trial) -> float:
    """Score of a trial before the gain."""
    if trial.arm == "constant":
        return 0.5
    if trial.learning_rate is None:
        return 0.55 + 0.01 * trial.seed
    best, rate = WORTH[trial.arm]
    return best - 0.1 * abs(log2(trial.learning_rate / rate)) + 0.01 * trial.seed


class Formula(Experiment):
    """The experiment of these studies."""

    config = FormulaConfig

    def open(self, config: FormulaConfig) -> FormulaStudy:
        return FormulaStudy(config)


EXPERIMENT = Formula()
STUDY: dict[str, Any] = {
    "experiment": "tests.study.formula:EXPERIMENT",
    "tasks": ["easy", "hard", "third"],
    "learning_rates": [0.001, 0.002, 0.004, 0.008],
    "seeds": [0, 1, 2],
    "tuning_seeds": [0],
}


@dataclass
class Run:
    """One call of the engine: the study, and the labels of the trials that were run and kept."""

    folder: Path
    study: Study
    ran: list[str]
    kept: list[str]


def write_study(folder: Path, **changes: Any) -> Path:
    """formula.yaml in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "formula.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **changes}), encoding="utf-8")
    return path


def run(folder: Path, ran: list[str] | None = None, **changes: Any) -> Run:
    """Compare in ``folder``. ``ran``: gets the labels of trials as they end, also of a call that is interrupted."""
    labels: dict[str, list[str]] = {"ran": [] if ran is None else ran, "kept": []}

    def observe(event: str, facts: dict[str, Any]) -> None:
        if event in labels:
            labels[event].append(facts["label"])

    study = compare(str(write_study(folder, **changes)), output=folder / "runs", observer=observe)
    return Run(folder / "runs/formula", study, labels["ran"], labels["kept"])
