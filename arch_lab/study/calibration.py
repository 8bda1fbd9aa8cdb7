"""How long a training step of each arm takes here: what turns a budget in seconds into a number of steps.

Real steps are timed (the study's data, optimizer, precision and trainer), on the clock that times runs: training only,
no evaluation. Measured once a study: plan.json keeps it, so that a resumed study trains the same number of steps.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from arch_lab.signals import raising_signals
from arch_lab.study.config import StudyConfig
from arch_lab.study.experiment import Experiment
from arch_lab.study.planning import MEASURED
from arch_lab.study.run import _trainer
from arch_lab.study.spec import spec_of
from arch_lab.training.trainer import quiet_lightning

WARM_UP = 3  # steps not counted: allocators, caches and kernels settle
LEAST_STEPS, LEAST_SECONDS, MOST_STEPS = 10, 2.0, 200
IDENTITY = ("architecture", "options", "width", "depth", "ffn_width")


class _Clock(Callback):
    """Times steps until there are enough of them, then ends the training."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        _wait()
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        _wait()
        self.seconds.append(time.perf_counter() - self._started)
        timed = self.seconds[WARM_UP:]
        if len(timed) >= LEAST_STEPS and sum(timed) >= LEAST_SECONDS:
            trainer.should_stop = True


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_per_step(arm: dict[str, Any], config: StudyConfig, data: Any, experiment: Experiment) -> float:
    """Median seconds of a training step of ``arm`` (plan form)."""
    spec = spec_of(arm, config.learning_rates[0], config.seeds[0], config, data.vocabulary)
    spec = replace(spec, steps=WARM_UP + MOST_STEPS, training=replace(config.training, evaluations=1))
    clock = _Clock()
    with quiet_lightning(), raising_signals():
        pl.seed_everything(spec.seed, verbose=False)
        _trainer(spec, [clock]).fit(experiment.module(spec), datamodule=experiment.datamodule(spec, data))
    return median(clock.seconds[WARM_UP:])


def kept(previous: dict[str, Any] | None, planned: dict[str, Any]) -> dict[str, float]:
    """Seconds per step, by arm, that an earlier plan.json of the same study measured for the same shapes and batches."""
    if not previous or any(
        previous.get(k) != planned[k] for k in ("vocabulary", "sequence_length", "batch_size", "training")
    ):
        return {}
    before = {arm["name"]: arm for arm in previous["arms"]}
    found = {}
    for arm in planned["arms"]:
        old = before.get(arm["name"], {})
        timing = old.get("calibration") or {}
        if timing.get("source") == MEASURED and all(old.get(k) == arm[k] for k in IDENTITY):
            found[arm["name"]] = float(timing["seconds_per_step"])
    return found
