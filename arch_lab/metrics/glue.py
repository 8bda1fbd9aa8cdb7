"""The metrics of each GLUE task, their mean over a task, and the average over tasks.

Legend: N items. Source: arXiv 1804.07461; the task's score is the mean of its metrics, the average is over tasks.
Which average is meant must be said with the number: published tables take MNLI as one column or two, QQP as F1 or as the
mean of F1 and accuracy, and most leave WNLI out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from arch_lab.metrics.checks import MetricError
from arch_lab.metrics.classification import accuracy, f1, matthews
from arch_lab.metrics.correlation import pearson, spearman
from blocks.errors import did_you_mean

Measure = Callable[[Any, Any], float]


def _two(predictions: Any, targets: Any) -> float:
    return accuracy(predictions, targets, 2)


def _three(predictions: Any, targets: Any) -> float:
    return accuracy(predictions, targets, 3)


GLUE_METRICS: dict[str, dict[str, Measure]] = {
    "cola": {"matthews": matthews},
    "sst2": {"accuracy": _two},
    "mrpc": {"accuracy": _two, "f1": f1},
    "stsb": {"pearson": pearson, "spearman": spearman},
    "qqp": {"accuracy": _two, "f1": f1},
    "mnli_matched": {"accuracy": _three},
    "mnli_mismatched": {"accuracy": _three},
    "qnli": {"accuracy": _two},
    "rte": {"accuracy": _two},
    "wnli": {"accuracy": _two},
}


def glue_metrics(task: str, predictions: Any, targets: Any) -> dict[str, float]:
    """The metrics of ``task`` by name. Raises: MetricError for an unknown task or labels outside its range."""
    return {name: measure(predictions, targets) for name, measure in _measures(task).items()}


def task_score(task: str, metrics: Mapping[str, float]) -> float:
    """Mean of the task's metrics: (accuracy + F1) / 2, (Pearson + Spearman) / 2, or the one there is."""
    wanted = _measures(task)
    missing = [name for name in wanted if name not in metrics]
    if missing:
        raise MetricError(f"GLUE task {task!r}: no value of {missing[0]!r}")
    return sum(metrics[name] for name in wanted) / len(wanted)


def glue_average(scores: Mapping[str, float], tasks: tuple[str, ...]) -> float:
    """Mean over exactly ``tasks``, MNLI's two halves counting as one task when both are named. Raises: MetricError."""
    for task in tasks:
        _measures(task)
        if task not in scores:
            raise MetricError(f"GLUE average: no score of {task!r}; leave it out of the tasks, and say so with the number")
    halves = [task for task in tasks if task.startswith("mnli")]
    parts = [scores[task] for task in tasks if task not in halves]
    if halves:
        parts.append(sum(scores[task] for task in halves) / len(halves))
    if not parts:
        raise MetricError("GLUE average: no task is named")
    return sum(parts) / len(parts)


def _measures(task: str) -> dict[str, Measure]:
    if task not in GLUE_METRICS:
        raise MetricError(f"unknown GLUE task {task!r}{did_you_mean(task, GLUE_METRICS)}")
    return GLUE_METRICS[task]


class GlueMetric(Metric):
    """Predictions and targets of one task gathered over batches and ranks; computed once, over all of them.

    ``update(predictions (n,), targets (n,))``; ``compute()`` gives the metrics and their mean, "score". None of these metrics is a
    mean over batches: F1 and correlations of halves do not add up. Raises: MetricError, when computed before any update too.
    """

    full_state_update = False
    higher_is_better = True
    predictions: list[Tensor]
    targets: list[Tensor]

    def __init__(self, task: str) -> None:
        super().__init__()
        _measures(task)
        self.task = task
        for name in ("predictions", "targets"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        if predictions.shape != targets.shape or predictions.ndim != 1:
            raise MetricError(
                f"GLUE task {self.task!r}: predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} must be (n,)"
            )
        self.predictions.append(predictions.detach())
        self.targets.append(targets.detach())

    def compute(self) -> dict[str, Tensor]:
        if isinstance(self.predictions, list) and not self.predictions:
            raise MetricError(f"GLUE task {self.task!r}: no prediction was given")
        found = glue_metrics(self.task, dim_zero_cat(self.predictions), dim_zero_cat(self.targets))
        found["score"] = task_score(self.task, found)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}
