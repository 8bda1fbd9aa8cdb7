"""One trial of a study over tasks, fitted without the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arch_lab.study.task_study import Fitted, TaskStudy
from arch_lab.study.trial import Job, Trial


def ignore(*_: Any) -> None:
    """Observer and progress that show nothing."""


def opened(experiment: Any, config: Any) -> Any:
    """The study of a configuration, with its data read."""
    study = experiment.open(config)
    study.read(ignore)
    return study


def fit(study: TaskStudy, trial: Trial, folder: Path) -> Fitted:
    """Fit ``trial`` in the study folder ``folder``."""
    trial_folder = trial.folder(folder)
    trial_folder.mkdir(parents=True, exist_ok=True)
    job = Job(trial=trial, study="tiny", folder=trial_folder, study_folder=folder, observer=ignore)
    return study.fit(trial, job)
