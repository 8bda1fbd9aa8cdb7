"""Studies of triplets small enough for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arch_lab.study.trial import Trial
from experiments.triplets.effort import Effort
from experiments.triplets.experiment import EXPERIMENT, TripletsConfig, TripletStudy
from tests.experiments import trials

SMALL = Effort(rounds=3, epochs=1, triplets=1280, batch=128, rows=96)


def trial_of(task: str, arm: str, rate: float | None = 0.01, seed: int = 0) -> Trial:
    return Trial(task=task, arm=arm, learning_rate=rate, seed=seed)


def options(**changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "experiment": "triplets",
        "tasks": ["yacht"],
        "regression": {},
        "effort": {"rounds": 2, "epochs": 1, "triplets": 256, "rows": 64},
        "learning_rates": [0.01],
        "seeds": [0],
        **changes,
    }


def opened(root: Path, **changes: Any) -> TripletStudy:
    config = TripletsConfig.from_options(options(root=str(root), **changes), where="study 'small'")
    return trials.opened(EXPERIMENT, config)
