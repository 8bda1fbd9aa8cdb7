"""Certify a model as causal before ``fit``, ``validate``, ``test`` or ``predict`` scores it."""

from __future__ import annotations

from collections.abc import Callable

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from arch_lab.laws import require_causal
from arch_lab.laws.certificate import certificate_line


class Certification(Callback):
    """Certifies ``module.model`` at the data's row length, before the sanity check and before the first step.

    ``report`` is called with one line. Raises: LeakError with block, positions, length and mode.
    """

    def __init__(self, report: Callable[[str], None] = lambda text: None) -> None:
        self.report = report
        self.certified = False

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if self.certified:
            return
        tokens: int = trainer.datamodule.tokens  # type: ignore[attr-defined]
        batch: int = trainer.datamodule.batch  # type: ignore[attr-defined]
        model = module.model
        certificate = require_causal(
            model,  # type: ignore[arg-type]
            vocabulary=int(module.hparams["vocabulary"]),
            lengths=[tokens],
            training_length=tokens,
            batch=batch,
            name=f"model {module.hparams['architecture']!r}",
        )
        self.certified = True
        if trainer.is_global_zero:
            self.report(f"causal: {certificate_line(certificate.to_dict())}")
