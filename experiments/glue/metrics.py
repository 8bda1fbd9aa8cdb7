"""The metrics of each GLUE task. Source: arXiv 1804.07461."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from arch_lab.metrics import accuracy, f1, matthews, pearson, spearman

Metric = Callable[[Any, Any], float]


def _two(predictions: Any, targets: Any) -> float:
    return accuracy(predictions, targets, 2)


def _three(predictions: Any, targets: Any) -> float:
    return accuracy(predictions, targets, 3)


GLUE_METRICS: dict[str, dict[str, Metric]] = {
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
    """The metrics of ``task``, a key of GLUE_METRICS. Raises: MetricError for labels outside its range."""
    return {name: metric(predictions, targets) for name, metric in GLUE_METRICS[task].items()}
