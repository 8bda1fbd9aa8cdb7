"""One run of a study: one arm, one learning rate, one seed, from initial weights to a result file.

A run that was killed resumes from its last whole checkpoint, bit for bit; a finished one is recognised by the hash of
everything that determines it and kept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from arch_lab import files
from arch_lab.report.tensorboard import RunWriter
from arch_lab.signals import raising_signals
from arch_lab.study import storage
from arch_lab.study.experiment import Experiment
from arch_lab.study.initial import start
from arch_lab.study.memory import PeakMemory
from arch_lab.study.spec import RunSpec
from arch_lab.study.trial_loggers import TrialLoggers
from arch_lab.training.callbacks import Divergence, Keeper, RandomState, RunLog
from arch_lab.training.saving import CHECKPOINT, discard, intact, save
from arch_lab.training.trainer import plain_trainer, quiet_lightning

MODEL = storage.MODEL


def train(
    spec: RunSpec,
    folder: Path,
    data: Any,
    experiment: Experiment,
    *,
    loggers: TrialLoggers,
    progress: Callable[[int, float | None], None],
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train, score on the tuning and the held-out split, write result.json. ``progress(step, loss)`` after every step.

    ``tell`` is handed what a user must know: a checkpoint that was damaged, an earlier attempt that is thrown away.
    Raises: KeyboardInterrupt after saving a checkpoint when interrupted; OutputError when the disk refuses; LoggerError for one of
    ``loggers`` that fails, after a checkpoint or the result was written.
    """
    identity = spec.identity(data.fingerprint)
    previous = storage.stored_result(folder, identity)
    if previous is not None:
        return previous
    try:
        storage.begin_run(folder, identity, tell)
        with raising_signals():
            return _train(spec, folder, data, experiment, loggers, progress, tell)
    except OSError as error:
        raise files.cannot_write(folder, error) from None


def _train(
    spec: RunSpec,
    folder: Path,
    data: Any,
    experiment: Experiment,
    loggers: TrialLoggers,
    progress: Callable[[int, float | None], None],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    t = spec.training
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet_lightning())
        memory = stack.enter_context(PeakMemory())
        pl.seed_everything(spec.seed, verbose=False)
        module, source = experiment.module(spec), experiment.datamodule(spec, data)
        start(module.model, spec.initial, data)  # type: ignore[arg-type]
        hparams = _hparams(spec, module)
        stack.enter_context(loggers.opened(hparams))
        writer = RunWriter(folder, hparams, experiment.measures, loggers.write)
        log = RunLog(
            folder / "metrics.jsonl",
            tokens_per_step=t.sequence_length * t.batch_size,
            flops_per_token=spec.flops_per_token,
            every=max(1, spec.steps // 200),
            write=lambda record: writer.scalars(
                record["step"], {k: v for k, v in record.items() if k != "step" and v is not None}
            ),
            progress=progress,
            primary=experiment.measures[0].key,
        )
        divergence = Divergence(math.log(spec.vocabulary), check_every=10 if torch.cuda.is_available() else 1)
        keeper = Keeper(folder, seconds=t.checkpoint_seconds, failure=lambda: loggers.failure)
        trainer = _trainer(spec, [log, divergence, RandomState(), keeper])
        with keeper.deferring_interrupts():
            _fit(trainer, module, source, folder / CHECKPOINT, tell)
        scores: dict[str, Any] = {} if divergence.diverged else experiment.scores(trainer, module, source)
        tuned, measured = experiment.measures[0].tuned, [m.key for m in experiment.measures]
        log.add({**log.axes(trainer.global_step), tuned: scores.get(tuned)})
        diverged = divergence.diverged or not all(math.isfinite(v) for v in scores.values())
        result = {
            "arm": spec.arm,
            "architecture": spec.architecture,
            "learning_rate": spec.learning_rate,
            "seed": spec.seed,
            "status": "diverged" if diverged else "finished",
            **{name: None if diverged else scores[name] for name in (*measured, tuned)},
            "tokens_per_second": t.sequence_length * t.batch_size / log.median_step_seconds(),
            "peak_memory_bytes": memory.peak(),
            "tokens": trainer.global_step * t.sequence_length * t.batch_size,
            "steps": trainer.global_step,
            "flops": trainer.global_step * t.sequence_length * t.batch_size * spec.flops_per_token,
            "seconds": log.seconds,
        }
        if not diverged:
            save(trainer, folder / MODEL, weights_only=True)
        writer.close({k: result[k] for k in (*measured, "tokens_per_second", "peak_memory_bytes")})
        loggers.close("failed" if diverged else "success")
    stored = storage.write_result(folder, result, spec.identity(data.fingerprint))
    discard(folder / CHECKPOINT)
    if loggers.failure is not None:
        raise loggers.failure
    return stored


def _trainer(spec: RunSpec, callbacks: list[Any]) -> pl.Trainer:
    return plain_trainer(
        max_steps=spec.steps,
        precision=spec.training.precision,
        gradient_clip_val=spec.training.clip_norm,
        val_check_interval=max(1, spec.steps // spec.training.evaluations),
        check_val_every_n_epoch=None,
        callbacks=callbacks,
    )


def _fit(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    source: pl.LightningDataModule,
    checkpoint: Path,
    tell: Callable[[str], None],
) -> None:
    resume = checkpoint if intact(checkpoint) else None
    if resume is None:
        if checkpoint.exists():
            tell(f"{checkpoint} is damaged and is not used: this run starts again at step 0")
        discard(checkpoint)
    trainer.fit(module, datamodule=source, ckpt_path=resume, weights_only=True if resume else None)


def _hparams(spec: RunSpec, module: pl.LightningModule) -> dict[str, Any]:
    return {
        "architecture": spec.architecture,
        "arm": spec.arm,
        "learning_rate": spec.learning_rate,
        "seed": spec.seed,
        "width": spec.width,
        "depth": spec.depth,
        "parameters": sum(p.numel() for p in module.parameters()),
        "train_flops": spec.steps
        * spec.training.batch_size
        * spec.training.sequence_length
        * spec.flops_per_token,
    }
