"""A run that is asked to stop: SIGTERM or Ctrl-C ends the step, saves a checkpoint and leaves.

All ranks stop at the same step: what one was asked, all were.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from arch_lab.files import atomic_path

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NAME = "interrupted.ckpt"
# seconds in which a repeated signal is the same request: a scheduler may signal a process and its parent
ECHO = 2.0


class Interrupted(BaseException):
    """Raised between steps. ``checkpoint``: where the run goes on, None when there was no step to save."""

    def __init__(self, number: int, *, step: int = 0, checkpoint: Path | None = None) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.step, self.checkpoint = number, step, checkpoint

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that the signal ended."""
        return 128 + self.number


class Interruption(Callback):
    """Saves between two optimizer steps and raises Interrupted; a second signal does not wait for it."""

    def __init__(self) -> None:
        self.number = 0
        self._training = False
        self._step = 0
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, both signals are handled here. Elsewhere than in the main thread: no change."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.number and time.monotonic() - self._since < ECHO:
            return
        if not self._training or self.number:
            raise Interrupted(number)
        self.number, self._since = number, time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._training, self._step = True, trainer.global_step
        if signal.getsignal(signal.SIGINT) == self._on_signal:
            # Lightning's own handler starts a broadcast in the middle of whatever the ranks are exchanging
            signal.signal(signal.SIGTERM, self._on_signal)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._training = False
        if self.number:  # the signal came after the last step: what is left is a score
            raise Interrupted(self.number, step=trainer.global_step, checkpoint=self._save(trainer))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            return  # gradients are being accumulated; a checkpoint would lose them
        self._step = trainer.global_step
        self._stop_if_asked(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._training:
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        number = self.number
        if trainer.world_size > 1:
            highest = torch.tensor(number, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(highest, op=torch.distributed.ReduceOp.MAX)
            number = int(highest)
        if number:
            self._training = False
            raise Interrupted(number, step=trainer.global_step, checkpoint=self._save(trainer))

    def _save(self, trainer: pl.Trainer) -> Path:
        """Every rank takes part; rank 0 writes."""
        path = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints" / NAME
        if trainer.is_global_zero:
            with atomic_path(path) as unfinished:
                trainer.save_checkpoint(unfinished)
        else:
            trainer.save_checkpoint(path)
        return path
