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

from arch_lab.memory import keep_memory
from arch_lab.signals import raising_signals
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.planning import MEASURED
from arch_lab.study.run import module_of, trainer_of
from arch_lab.study.spec import RunSpec
from arch_lab.training.trainer import quiet_lightning

WARM_UP = 3  # steps not counted: allocators, caches and kernels settle
LEAST_STEPS, LEAST_SECONDS, MOST_STEPS = 10, 2.0, 200
IDENTITY = ("architecture", "options", "width", "depth", "ffn_width")
SHARED = ("vocabulary", "sequence_length", "batch_size", "training")


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


def seconds_per_step(spec: RunSpec, experiment: Any, data: Any) -> float:
    """Median seconds of a training step of one run."""
    training = replace(spec.training, evaluations=1)
    spec = replace(spec, steps=WARM_UP + MOST_STEPS, training=training)
    clock = _Clock()
    keep_memory()  # as in the process of a run
    with quiet_lightning(), raising_signals():
        pl.seed_everything(spec.seed, verbose=False)
        trainer = trainer_of(spec, [clock])
        trainer.fit(module_of(spec, experiment), datamodule=experiment.datamodule(spec, data))
    return median(clock.seconds[WARM_UP:])


def measured_before(previous: Plan | None, plan: Plan) -> dict[str, float]:
    """Seconds per step, by arm, that an earlier plan of the same study measured for the same shapes and batches."""
    if previous is None or any(getattr(previous, key) != getattr(plan, key) for key in SHARED):
        return {}
    earlier = {arm.name: arm for arm in previous.arms}
    return {
        arm.name: seconds
        for arm in plan.arms
        if (seconds := _measured(earlier.get(arm.name), arm)) is not None
    }


def _measured(earlier: PlannedArm | None, arm: PlannedArm) -> float | None:
    if earlier is None or earlier.calibration is None or earlier.calibration.source != MEASURED:
        return None
    same = all(getattr(earlier, key) == getattr(arm, key) for key in IDENTITY)
    return earlier.calibration.seconds_per_step if same else None
