"""Studies over several tasks: one engine for GLUE, triplets and retrieval."""

from arch_lab.tasks.contract import (
    Cell,
    Fitted,
    Method,
    Prepared,
    Task,
    TaskExperiment,
    TaskStudyConfig,
    Tell,
)
from arch_lab.tasks.engine import TaskEngine

__all__ = [
    "Cell",
    "Fitted",
    "Method",
    "Prepared",
    "Task",
    "TaskEngine",
    "TaskExperiment",
    "TaskStudyConfig",
    "Tell",
]
