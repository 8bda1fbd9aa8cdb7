"""Trunks of WSD schedules: the state before a run's decay, from which longer runs of the same start go on.

A schedule of warm-up, constant rate and decay does not depend on its length before the decay, so runs that differ in
length alone share their beginning (arXiv 2404.06395). A trunk is a cache: a run gives the same numbers without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from arch_lab import files
from arch_lab.training.saving import State, intact, save

STATE, IDENTITY = "trunk.ckpt", "trunk.json"


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """Where the trunk of a run lies. ``identity``: of all runs that share it; ``stable``: steps before the run's decay."""

    folder: Path
    identity: str
    stable: int

    def checkpoint(self) -> Path | None:
        """A state this run may go on from: of its own start, whole, and not beyond its decay; None without one."""
        step = self._stored_step()
        path = self.folder / STATE
        return path if step is not None and step <= self.stable and intact(path) else None

    def save(self, trainer: pl.Trainer) -> None:
        """Keep the state of now, unless a longer run has kept its own."""
        step = self._stored_step()
        if step is not None and step >= trainer.global_step:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_json(
            self.folder / IDENTITY, {}
        )  # of neither state, should this be killed between the two
        save(trainer, self.folder / STATE)
        files.write_json(self.folder / IDENTITY, {"identity": self.identity, "step": trainer.global_step})

    def _stored_step(self) -> int | None:
        content: Any = files.read_json(self.folder / IDENTITY)
        if not isinstance(content, Mapping) or content.get("identity") != self.identity:
            return None
        step = content.get("step")
        return step if isinstance(step, int) else None


class TrunkKeeper(Callback):
    """Saves the state before the decay; ``reused``: steps that the run did not take itself, but went on from."""

    def __init__(self, trunk: Trunk, replay: Callable[[], None]) -> None:
        """``replay()``: logs again what was logged up to the state that the run goes on from."""
        self.trunk, self.replay = trunk, replay
        self.reused = 0
        self.goes_on = False  # from the trunk

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.goes_on:
            self.reused = trainer.global_step
            self.replay()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.trunk.stable:
            self.trunk.save(trainer)

    def state_dict(self) -> State:
        return {"reused": self.reused}

    def load_state_dict(self, state_dict: State) -> None:
        self.reused = state_dict["reused"]
