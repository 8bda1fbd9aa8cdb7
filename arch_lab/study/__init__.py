"""Studies: load, plan, run, judge. Heavy imports wait until one is used."""

from __future__ import annotations

from typing import Any

_MODULES = {
    "Experiment": "arch_lab.study.open_study",
    "OpenStudy": "arch_lab.study.open_study",
    "Study": "arch_lab.study.study",
    "TaskStudy": "arch_lab.study.task_study",
    "TaskStudyConfig": "arch_lab.study.task_study",
    "TrainingExperiment": "arch_lab.study.training_study",
    "list_studies": "arch_lab.study.library",
    "load_body": "arch_lab.study.body",
    "load_run": "arch_lab.study.load",
    "read_study": "arch_lab.study.study",
}
__all__ = [
    "Experiment",
    "OpenStudy",
    "Study",
    "TaskStudy",
    "TaskStudyConfig",
    "TrainingExperiment",
    "list_studies",
    "load_body",
    "load_run",
    "read_study",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
