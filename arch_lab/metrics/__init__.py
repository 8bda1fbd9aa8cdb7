"""Exact metrics of classification, correlation, verification and ranking: arrays in, a number out.

Own formulas in float64 where torchmetrics 1.9 differs from its references: its Matthews coefficient of a
constant predictor is not 0, its Spearman adds 1e-6 to a denominator, its classification metrics take labels
that do not exist. Where it is right (accuracy, F1, Pearson) a test holds ours equal to it. Every metric
refuses labels outside its range, and shapes that differ, in one line (MetricError).
"""

from arch_lab.metrics.checks import MetricError
from arch_lab.metrics.classification import accuracy, confusion_matrix, f1, matthews
from arch_lab.metrics.correlation import pearson, spearman
from arch_lab.metrics.ranking import ndcg, recall, reciprocal_rank
from arch_lab.metrics.verification import CentroidCosineScorer, ErrorRate, top1_eer_with_confusion, top_s_eer

__all__ = [
    "CentroidCosineScorer",
    "ErrorRate",
    "MetricError",
    "accuracy",
    "confusion_matrix",
    "f1",
    "matthews",
    "ndcg",
    "pearson",
    "recall",
    "reciprocal_rank",
    "spearman",
    "top1_eer_with_confusion",
    "top_s_eer",
]
