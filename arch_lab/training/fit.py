"""Train one LightningModule from start to end, without a study folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from arch_lab.signals import raising_signals
from arch_lab.training.callbacks import Divergence
from arch_lab.training.trainer import plain_trainer, quiet_lightning

Report = Callable[[int, int, float], None]  # (step, steps, loss), after every step


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """``losses``: of every step that was taken.

    ``diverged``: the last of them is not finite, or a Divergence ended the run.
    """

    steps: int
    losses: tuple[float, ...]
    diverged: bool

    def curve(self, every: int = 1) -> tuple[tuple[int, str, float], ...]:
        """(step, tag, mean loss) of each whole stretch of ``every`` steps."""
        losses = torch.tensor(self.losses, dtype=torch.float32)
        ends = range(every, len(losses) + 1, every)
        return tuple((end, "train/loss", float(losses[end - every : end].mean())) for end in ends)


class Losses(Callback):
    """The loss of every step, handed to ``report`` as it comes."""

    def __init__(self, report: Report | None = None) -> None:
        self.values: list[float] = []
        self.report = report

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.values.append(float(outputs["loss"]))
        if self.report is not None:
            self.report(trainer.global_step, trainer.max_steps, self.values[-1])


def fit(
    module: pl.LightningModule,
    loader: Any,
    *,
    steps: int = -1,
    epochs: int | None = None,
    clip: float | None = None,
    callbacks: Sequence[Callback] = (),
    report: Report | None = None,
) -> FitResult:
    """Train ``module`` in place on ``loader`` (batches, or a data module) for ``steps``, or for ``epochs``.

    ``clip``: norm that longer gradients are cut to. A callback Divergence ends the run early. ``report``: called
    after every step of a run whose ``steps`` are given.
    Raises: KeyboardInterrupt after Ctrl-C.
    """
    losses = Losses(report)
    source = (
        {"datamodule": loader}
        if isinstance(loader, pl.LightningDataModule)
        else {"train_dataloaders": loader}
    )
    with quiet_lightning(), raising_signals():
        trainer = plain_trainer(
            max_steps=steps,
            max_epochs=epochs,
            gradient_clip_val=clip,
            reload_dataloaders_every_n_epochs=0 if epochs is None else 1,  # an epoch has batches of its own
            callbacks=[losses, *callbacks],
        )
        trainer.fit(module.train(), **source)
    finite = not losses.values or math.isfinite(losses.values[-1])
    return FitResult(
        steps=trainer.global_step, losses=tuple(losses.values), diverged=not finite or _stopped(callbacks)
    )


def predict(module: pl.LightningModule, loader: Iterable[Any]) -> list[Any]:
    """What ``module`` predicts for each batch."""
    with quiet_lightning():
        return list(plain_trainer().predict(module, dataloaders=loader) or [])


def _stopped(callbacks: Sequence[Callback]) -> bool:
    return any(callback.diverged for callback in callbacks if isinstance(callback, Divergence))
