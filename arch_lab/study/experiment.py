"""What the engine asks of an experiment, and how it finds one: by name, at run time, never by a static import."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from blocks.errors import ConfigError, did_you_mean

if TYPE_CHECKING:  # seconds to import, and finding an experiment needs none of it
    import lightning.pytorch as pl


@runtime_checkable
class Experiment(Protocol):
    """Objective, data and metrics of one question. ``primary`` is what a verdict is about; lower is better."""

    metrics: tuple[str, ...]
    primary: str

    def prepare(self, config: Any, cache: Path, progress: Callable[[str], None]) -> Any:
        """Data of the study (StudyConfig): ready, fingerprinted, large enough. Raises: UserError."""

    def module(self, spec: Any) -> pl.LightningModule:
        """The LightningModule of one run (RunSpec)."""

    def datamodule(self, spec: Any, data: Any) -> pl.LightningDataModule:
        """The data of one run, in an order that is a function of (seed, step)."""

    def scores(self, trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule) -> dict[str, float]:
        """Every metric on the held-out split, and ``tune_<primary>`` on the tuning split."""

    def baselines(self, data: Any) -> list[dict[str, Any]]:
        """Trivial models under the same scoring, worst first."""


def load_experiment(name: str) -> Experiment:
    """``experiments.<name>.experiment:EXPERIMENT``. Raises: ConfigError with the nearest name."""
    known = [p.parent.name for p in (Path(__file__).resolve().parents[2] / "experiments").glob("*/experiment.py")]
    if name not in known:
        raise ConfigError(f"unknown experiment {name!r}{did_you_mean(name, known)}")
    experiment: Experiment = importlib.import_module(f"experiments.{name}.experiment").EXPERIMENT
    return experiment
