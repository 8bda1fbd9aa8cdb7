"""One training run of a study, from initial weights to its record.

A run that was killed resumes from its last whole checkpoint, bit for bit.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from arch_lab.judge.records import DIVERGED, FINISHED, Record
from arch_lab.stored import Facts
from arch_lab.study.events import METRICS, TrialLog
from arch_lab.study.initial import start
from arch_lab.study.memory import PeakMemory
from arch_lab.study.spec import RunSpec
from arch_lab.study.trial import Job
from arch_lab.training.accumulation import accumulate
from arch_lab.training.callbacks import Divergence, Keeper, RandomState, RunLog
from arch_lab.training.saving import CHECKPOINT, discard, intact, save
from arch_lab.training.trainer import plain_trainer, quiet_lightning
from arch_lab.training.trunk import Trunk, TrunkKeeper

MODEL = "model.ckpt"  # weights of a run that finished
MEBIBYTE = 2**20


def train(spec: RunSpec, job: Job, experiment: Any, data: Any, trunk: Trunk | None = None) -> Record:
    """Train, and score on the tune and the held-out split. Weights and curve stay in the folder of the job.

    ``trunk``: of a run that may go on from a shorter one of the same start.

    Raises: KeyboardInterrupt after saving a checkpoint when interrupted; OutputError when the disk refuses; LoggerError for a
    logger that cannot start, or one that fails, after a checkpoint was written.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet_lightning())
        memory = stack.enter_context(PeakMemory())
        pl.seed_everything(spec.seed, verbose=False)
        module, source = module_of(spec, experiment), experiment.datamodule(spec, data)
        start(module.model, spec.initial, data)  # type: ignore[arg-type]
        log = stack.enter_context(job.log(hyperparameters(spec, module)))
        curve = _curve(spec, job, log, experiment.measures[0].key)
        divergence = Divergence(math.log(spec.vocabulary), check_every=10 if torch.cuda.is_available() else 1)
        keeper = Keeper(job.folder, seconds=spec.training.checkpoint_seconds, failure=lambda: log.failure)
        branch = None if trunk is None else TrunkKeeper(trunk, lambda: _replay(curve, log))
        callbacks = [curve, divergence, RandomState(), *([] if branch is None else [branch]), keeper]
        trainer = trainer_of(spec, callbacks)
        with keeper.deferring_interrupts():
            _fit(trainer, module, source, job, branch)
        reused = 0 if branch is None else branch.reused
        scores = {} if divergence.diverged else experiment.scores(trainer, module, source)
        tuned = scores.get(experiment.measures[0].tuned)
        curve.add({**curve.axes(trainer.global_step), experiment.measures[0].tuned: tuned})
        diverged = not scores or not all(math.isfinite(value) for value in scores.values())
        record = Record(
            arm=spec.arm,
            task=spec.task,
            learning_rate=spec.learning_rate,
            size=spec.size,
            draw=spec.draw,
            seed=spec.seed,
            status=DIVERGED if diverged else FINISHED,
            tuned=None if diverged else tuned,
            scores={} if diverged else {m.key: scores[m.key] for m in experiment.measures},
            facts={} if diverged else experiment.facts(trainer, module, source),
            steps=trainer.global_step,
            tokens=trainer.global_step * spec.tokens_per_step,
            flops=trainer.global_step * spec.tokens_per_step * spec.flops_per_token,
            reused_flops=reused * spec.tokens_per_step * spec.flops_per_token if reused else None,
            seconds=curve.seconds,
            tokens_per_second=_finite(spec.tokens_per_step / curve.median_step_seconds()),
            peak_memory_bytes=memory.peak(),
        )
        if not diverged:
            save(trainer, job.folder / MODEL, weights_only=True)
        log.close(None if diverged else {**record.scores, **_speed(record)})
    return record


def module_of(spec: RunSpec, experiment: Any) -> pl.LightningModule:
    """The module of a run, which trains on as many rows at a time as the study says."""
    module: pl.LightningModule = experiment.module(spec)
    if spec.training.rows < spec.training.batch_size:
        accumulate(module, spec.training.rows)
    return module


def trainer_of(spec: RunSpec, callbacks: list[pl.Callback]) -> pl.Trainer:
    """The Lightning trainer of a run."""
    return plain_trainer(
        max_steps=spec.steps,
        precision=spec.training.precision,
        gradient_clip_val=spec.training.clip_norm,
        val_check_interval=max(1, spec.steps // spec.training.evaluations),
        check_val_every_n_epoch=None,
        callbacks=callbacks,
    )


def _curve(spec: RunSpec, job: Job, log: TrialLog, primary: str) -> RunLog:
    return RunLog(
        job.folder / METRICS,
        tokens_per_step=spec.tokens_per_step,
        flops_per_token=spec.flops_per_token,
        every=max(1, spec.steps // 200),
        write=log.record,
        progress=lambda step, loss: job.step(step, spec.steps, loss),
        primary=primary,
    )


def _replay(curve: RunLog, log: TrialLog) -> None:
    for row in curve.records:
        log.record(row)


def _fit(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    source: pl.LightningDataModule,
    job: Job,
    branch: TrunkKeeper | None,
) -> None:
    """Train from the run's own checkpoint, its trunk or the beginning."""
    checkpoint: Path = job.folder / CHECKPOINT
    resume = checkpoint if intact(checkpoint) else None
    if resume is None:
        if checkpoint.exists():
            job.note(f"{checkpoint} is damaged and is not used: this run starts again at step 0")
        discard(checkpoint)
    if resume is None and branch is not None:
        resume = branch.trunk.checkpoint()
        branch.goes_on = resume is not None
    trainer.fit(module, datamodule=source, ckpt_path=resume, weights_only=True if resume else None)


def hyperparameters(spec: RunSpec, module: pl.LightningModule) -> Facts:
    """The row of a run in TensorBoard's table."""
    return {
        "architecture": spec.architecture,
        "arm": spec.arm,
        "learning_rate": spec.learning_rate,
        "seed": spec.seed,
        "width": spec.width,
        "depth": spec.depth,
        "parameters": sum(p.numel() for p in module.parameters()),
        "train_flops": spec.steps * spec.tokens_per_step * spec.flops_per_token,
    }


def _speed(record: Record) -> dict[str, float | None]:
    peak = record.peak_memory_bytes
    return {
        "tokens_per_second": record.tokens_per_second,
        "peak_memory_mib": None if peak is None else peak / MEBIBYTE,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
