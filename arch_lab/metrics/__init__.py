"""Exact metrics of classification, correlation, detection, verification and ranking: arrays in, a number out.

Own formulas in float64 where torchmetrics 1.9 differs from its references: its Matthews coefficient of a constant predictor is not
0, its Spearman adds 1e-6 to a denominator, its average precision puts scores outside [0, 1] through a sigmoid (and so makes
ties), its classification metrics take labels that do not exist. Where it is right (accuracy, F1, Pearson, binary EER) a test
holds ours equal to it; ``GlueMetric`` uses it to gather predictions over batches and ranks.
Every metric refuses labels outside its range, and shapes that differ, in one line (MetricError).
"""

from arch_lab.metrics.checks import MetricError
from arch_lab.metrics.classification import accuracy, confusion_matrix, f1, macro_f1, matthews
from arch_lab.metrics.correlation import pearson, spearman
from arch_lab.metrics.detection import average_precision, best_f1, f1_at
from arch_lab.metrics.glue import GLUE_METRICS, GlueMetric, glue_average, glue_metrics, task_score
from arch_lab.metrics.ranking import ndcg, recall, reciprocal_rank
from arch_lab.metrics.verification import CentroidCosineScorer, ErrorRate, top1_eer_with_confusion, top_s_eer

__all__ = [
    "GLUE_METRICS",
    "CentroidCosineScorer",
    "ErrorRate",
    "GlueMetric",
    "MetricError",
    "accuracy",
    "average_precision",
    "best_f1",
    "confusion_matrix",
    "f1",
    "f1_at",
    "glue_average",
    "glue_metrics",
    "macro_f1",
    "matthews",
    "ndcg",
    "pearson",
    "recall",
    "reciprocal_rank",
    "spearman",
    "task_score",
    "top1_eer_with_confusion",
    "top_s_eer",
]
