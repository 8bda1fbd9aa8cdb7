"""One run of a study: one arm, one learning rate, one seed, from initial weights to a result file.

A run that was killed resumes from its last whole checkpoint, bit for bit; a finished one is recognised by the hash of
everything that determines it and kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from arch_lab import files
from arch_lab.report.tensorboard import RunWriter
from arch_lab.study.config import Training
from arch_lab.study.environment import code_fingerprint
from arch_lab.study.experiment import Experiment
from arch_lab.study.identity import differences, digest
from arch_lab.study.initial import start
from arch_lab.study.memory import PeakMemory
from arch_lab.training.callbacks import CHECKPOINT, Divergence, Keeper, RandomState, RunLog, discard, intact, save
from arch_lab.training.trainer import plain_trainer, quiet_lightning

MODEL = "model.ckpt"


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that determines a run's numbers, beside the code and the data (both are in its identity)."""

    arm: str
    architecture: str
    options: dict[str, Any]
    width: int
    depth: int
    ffn_width: int
    vocabulary: int
    steps: int
    flops_per_token: float
    learning_rate: float
    seed: int
    training: Training
    objective: dict[str, Any] = field(default_factory=dict)  # options of the experiment
    initial: dict[str, Any] = field(default_factory=dict)  # path and fingerprint of the weights it starts from; empty: drawn

    @property
    def label(self) -> str:
        return f"{self.arm} lr {self.learning_rate:g} seed {self.seed}"

    def folder(self, study: Path) -> Path:
        return study / "runs" / self.arm / f"lr-{self.learning_rate:g}_seed-{self.seed}"

    def settings(self) -> dict[str, Any]:
        """Arguments of the run's LanguageModel, plain JSON."""
        t = self.training
        copied = ("architecture", "options", "width", "depth", "ffn_width", "vocabulary", "learning_rate")
        trained = ("weight_decay", "beta1", "beta2", "warmup_fraction", "final_fraction")
        return {
            **{name: getattr(self, name) for name in copied},
            **{name: getattr(t, name) for name in trained},
            "max_tokens": t.sequence_length,
            "total_steps": self.steps,
            "groups": [{**asdict(rule), "match": list(rule.match)} for rule in t.groups],
        }

    def identity(self, data: Any) -> dict[str, Any]:
        return {**asdict(self), "initial": self.initial.get("fingerprint"), "data": data.fingerprint, "code": code_fingerprint()}


def finished(spec: RunSpec, folder: Path, data: Any) -> dict[str, Any] | None:
    """The result of this very run, or None. Raises: OutputError when the folder holds another run's result."""
    kept = files.read_json(folder / "config.json")
    identity = spec.identity(data)
    if kept is not None and digest(kept) != digest(identity):
        changed = differences(kept, identity)
        raise files.OutputError(
            f"{folder} holds a run of another configuration ({', '.join(changed[:3])} changed); results are never mixed: "
            "choose another --output, or delete the folder"
        )
    result = files.read_json(folder / "result.json") if kept is not None else None
    return result if result and result.get("status") in ("finished", "diverged") else None


def train(
    spec: RunSpec, folder: Path, data: Any, experiment: Experiment, *, progress: Callable[[int, float | None], None]
) -> dict[str, Any]:
    """Train, score on the tuning and the held-out split, write result.json. ``progress(step, loss)`` after every step.

    Raises: KeyboardInterrupt after saving a checkpoint when interrupted; OutputError when the disk refuses.
    """
    previous = finished(spec, folder, data)
    if previous is not None:
        return previous
    files.write_json(folder / "config.json", spec.identity(data))
    try:
        return _train(spec, folder, data, experiment, progress)
    except OSError as error:
        raise files.OutputError(
            f"cannot write {folder}: {error.strerror or error}; free space or choose another folder with --output"
        ) from None


def _train(spec: RunSpec, folder: Path, data: Any, experiment: Experiment, progress: Callable[[int, float | None], None]) -> dict[str, Any]:
    t, quiet = spec.training, quiet_lightning()
    with quiet, PeakMemory() as memory:
        pl.seed_everything(spec.seed, verbose=False)
        module, source = experiment.module(spec), experiment.datamodule(spec, data)
        start(module.model, spec.initial, data)  # type: ignore[arg-type]
        writer = RunWriter(folder, _hparams(spec, module), experiment.measures)
        log = RunLog(
            folder / "metrics.jsonl",
            tokens_per_step=t.sequence_length * t.batch_size,
            flops_per_token=spec.flops_per_token,
            every=max(1, spec.steps // 200),
            write=lambda record: writer.scalars(record["step"], {k: v for k, v in record.items() if k != "step" and v is not None}),
            progress=progress,
            primary=experiment.measures[0].key,
        )
        divergence = Divergence(math.log(spec.vocabulary), check_every=10 if torch.cuda.is_available() else 1)
        keeper = Keeper(folder, seconds=t.checkpoint_seconds)
        trainer = _trainer(spec, [log, divergence, RandomState(), keeper])
        with keeper.deferring_interrupts():
            _fit(trainer, module, source, folder / CHECKPOINT)
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
            save(trainer, folder / MODEL)
        writer.close({k: result[k] for k in (*measured, "tokens_per_second", "peak_memory_bytes")})
    files.write_json(folder / "result.json", result)
    discard(folder / CHECKPOINT)
    return result


def _trainer(spec: RunSpec, callbacks: list[Any]) -> pl.Trainer:
    return plain_trainer(
        max_steps=spec.steps,
        precision=spec.training.precision,
        gradient_clip_val=spec.training.clip_norm,
        val_check_interval=max(1, spec.steps // spec.training.evaluations),
        check_val_every_n_epoch=None,
        callbacks=callbacks,
    )


def _fit(trainer: pl.Trainer, module: pl.LightningModule, source: pl.LightningDataModule, checkpoint: Path) -> None:
    resume = checkpoint if intact(checkpoint) else None
    if resume is None:
        discard(checkpoint)  # damaged or half-written: start this run anew rather than trust it
    try:
        trainer.fit(module, datamodule=source, ckpt_path=resume, weights_only=True if resume else None)
    except SystemExit:  # how Lightning ends after Ctrl-C; the checkpoint was taken between steps
        raise KeyboardInterrupt from None


def _hparams(spec: RunSpec, module: pl.LightningModule) -> dict[str, Any]:
    return {
        "architecture": spec.architecture,
        "arm": spec.arm,
        "learning_rate": spec.learning_rate,
        "seed": spec.seed,
        "width": spec.width,
        "depth": spec.depth,
        "parameters": sum(p.numel() for p in module.parameters()),
        "train_flops": spec.steps * spec.training.batch_size * spec.training.sequence_length * spec.flops_per_token,
    }
