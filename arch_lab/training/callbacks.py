"""What happens around a run: the log, the checkpoint a kill cannot spoil, and the verdict "diverged".

Legend: B batch, T tokens.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from arch_lab import files
from arch_lab.stored import Json
from arch_lab.training.saving import CHECKPOINT, State, save


class RandomState(Callback):
    """Keeps torch's generator in the checkpoint: Lightning does not, and a resumed run would then differ."""

    def __init__(self) -> None:
        self.saved: Tensor | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: State
    ) -> None:
        checkpoint["rng"] = torch.get_rng_state()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: State
    ) -> None:
        self.saved = checkpoint.get("rng")  # a checkpoint may be older than this callback

    def on_train_batch_start(self, *_: Any) -> None:
        if self.saved is not None:
            torch.set_rng_state(self.saved)
            self.saved = None


class Divergence(Callback):
    """Stops a run whose loss is not finite, or stays half as high again as an untrained model's.

    ``log_vocabulary``: ln V, the loss of a model that knows nothing.
    """

    def __init__(self, log_vocabulary: float, *, check_every: int = 1) -> None:
        self.limit = 1.5 * log_vocabulary + 1.0
        self.check_every = check_every
        self.average: float | None = None
        self.diverged = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if trainer.global_step % self.check_every:
            return
        loss = float(outputs["loss"])
        self.average = loss if self.average is None else 0.9 * self.average + 0.1 * loss
        # the untrained loss itself may lie above ln V: only judge once the first steps are over
        high = trainer.global_step > 20 and self.average > self.limit
        if not math.isfinite(loss) or high:
            self.diverged = True
            trainer.should_stop = True

    def state_dict(self) -> State:
        return {"average": self.average}

    def load_state_dict(self, state_dict: State) -> None:
        self.average = state_dict["average"]


class RunLog(Callback):
    """Writes metrics.jsonl and hands scalars on; its clock and its place in the file survive a resume.

    ``write(record)`` is called with every record, ``progress(step, loss)`` after every step with the latest
    logged loss (None before there is one); ``primary`` is what the tuning split is looked at for.
    """

    def __init__(
        self,
        path: Path,
        *,
        tokens_per_step: int,
        flops_per_token: float,
        every: int,
        write: Callable[[Json], None],
        progress: Callable[[int, float | None], None],
        primary: str = "bits_per_byte",
    ) -> None:
        self.primary = primary
        self.path, self.every, self.write, self.progress = path, every, write, progress
        self.tokens_per_step, self.flops_per_token = tokens_per_step, flops_per_token
        self.records: list[Json] = []
        self.step_seconds: list[float] = []
        self.seconds = 0.0  # training only: evaluation, checkpoints and data are not on this clock
        self.gradient_norm = float("nan")
        self.loss: float | None = None
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._rewrite()  # after a resume: drop what was logged beyond the checkpoint

    def on_train_batch_start(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any
    ) -> None:
        if (trainer.global_step + 1) % self.every == 0:  # before clipping, which is what tells of trouble
            norms = torch._foreach_norm([p.grad for p in module.parameters() if p.grad is not None])
            self.gradient_norm = float(torch.linalg.vector_norm(torch.stack(norms)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        loss = float(outputs["loss"]) if trainer.global_step % self.every == 0 else None
        elapsed = time.perf_counter() - self._started
        self.seconds += elapsed
        self.step_seconds.append(elapsed)
        if loss is not None:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self.add(
                {
                    **self.axes(trainer.global_step),
                    "train_loss": loss,
                    "learning_rate": rate,
                    "gradient_norm": self.gradient_norm,
                }
            )
            self.loss = loss
        self.progress(trainer.global_step, self.loss)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        value = trainer.callback_metrics.get(f"tune/{self.primary}")
        if value is not None and trainer.state.fn == "fit":
            self.add({**self.axes(trainer.global_step), f"tune_{self.primary}": float(value)})

    def axes(self, step: int) -> dict[str, float]:
        tokens = step * self.tokens_per_step
        return {
            "step": step,
            "tokens": tokens,
            "flops": tokens * self.flops_per_token,
            "seconds": self.seconds,
        }

    def add(self, record: Json) -> None:
        record = {k: (v if not isinstance(v, float) or math.isfinite(v) else None) for k, v in record.items()}
        self.records.append(record)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.write(record)

    def _rewrite(self) -> None:
        files.write_text(self.path, "".join(json.dumps(r) + "\n" for r in self.records))

    def median_step_seconds(self) -> float:
        settled = sorted(
            self.step_seconds[3:] or self.step_seconds
        )  # the first steps pay for warm-up of caches
        return settled[len(settled) // 2] if settled else float("nan")

    def state_dict(self) -> State:
        return {"records": self.records, "seconds": self.seconds, "step_seconds": self.step_seconds}

    def load_state_dict(self, state_dict: State) -> None:
        self.records, self.seconds, self.step_seconds = (
            state_dict["records"],
            state_dict["seconds"],
            state_dict["step_seconds"],
        )


class Keeper(Callback):
    """Save the run every ``seconds`` of wall-clock time, and on Ctrl-C or SIGTERM.

    Only between steps: in the middle of one the data order is a batch ahead of the weights, and a checkpoint
    taken there would resume to other numbers. A second signal does not wait.
    """

    def __init__(
        self, folder: Path, *, seconds: float, failure: Callable[[], Exception | None] = lambda: None
    ) -> None:
        """``failure()``: what happened beside the training and ends the run once it is saved; None:
        nothing.
        """
        self.path, self.seconds, self.failure = folder / CHECKPOINT, seconds, failure
        self._deferring = False
        self.stop: int | None = None  # the signal to end the run for, once the step is over
        self._last = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._deferring:
            signal.signal(
                signal.SIGTERM, self._on_signal
            )  # Lightning's own would end a validation in its middle

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        failure, unfinished = self.failure(), trainer.global_step < trainer.max_steps
        due = self.stop is not None or failure is not None or time.monotonic() - self._last >= self.seconds
        if due and unfinished:
            save(trainer, self.path)
            self._last = time.monotonic()
        if self.stop is not None:
            raise KeyboardInterrupt(self.stop)
        if failure is not None and unfinished:
            raise failure

    @contextmanager
    def deferring_interrupts(self) -> Iterator[None]:
        """Inside, the first SIGINT or SIGTERM waits for the end of the step.

        Elsewhere than in the main thread: no change.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {
            number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
        }
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.stop is not None:
            raise KeyboardInterrupt(int(number))
        self.stop = int(number)
