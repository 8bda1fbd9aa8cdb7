"""Retrieval small enough for tests: sets in miniature and a pretrained study of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arch_lab.study.engine import compare
from arch_lab.study.task_study import Fitted
from arch_lab.study.trial import Trial
from experiments.retrieval.config import RetrievalStudyConfig
from experiments.retrieval.experiment import EXPERIMENT, RetrievalStudy
from tests.experiments import trials
from tests.experiments.retrieval import retrieval_files
from tests.small_study import small_study

ARMS = [
    {"architecture": "gemma_encoder", "options": {"radius": 8, "generation_options": {"pattern": "LG"}}},
    {"architecture": "m2_bert", "options": {"filter_order": 16}},
]
TASKS = ["scifact", "cranfield", "trec_qa"]
TRAINING: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 2,
    "query_tokens": 24,
    "document_tokens": 32,
    "negatives": 1,
    "negative_pool": 2,
}
RATE = 0.01


def write_world(folder: Path) -> None:
    """The sets in miniature and a finished masked study ``runs/small``."""
    retrieval_files.all_sets(folder)
    path = small_study(
        folder,
        experiment="masked",
        arms=ARMS,
        training={"sequence_length": 32, "batch_size": 2, "evaluations": 1},
        budget={"params": 6.0e4, "train_flops": 1.5e9, "tolerance": 0.01},
        objective={"mask_share": 0.3, "evaluation_windows": 4},
    )
    compare(str(path), output=folder / "runs", cache=folder / "cache")


def config(world: Path, **changes: Any) -> RetrievalStudyConfig:
    options = {
        "name": "tiny",
        "experiment": "retrieval",
        "tasks": TASKS,
        "root": str(world),
        "pretrained": str(world / "runs/small"),
        "learning_rates": [RATE],
        "seeds": [0],
        "complete": False,
        **changes,
    }
    training = {**TRAINING, **changes.get("training", {})}
    return RetrievalStudyConfig.from_options({**options, "training": training})


def opened(world: Path, **changes: Any) -> RetrievalStudy:
    study: RetrievalStudy = trials.opened(EXPERIMENT, config(world, **changes))
    return study


def fit(
    study: RetrievalStudy,
    task: str = "scifact",
    arm: str = "m2_bert",
    seed: int = 0,
    rate: float | None = RATE,
) -> Fitted:
    trial = Trial(task=task, arm=arm, learning_rate=rate, seed=seed)
    return trials.fit(study, trial, study.config.folder / "fits")
