"""What the engine asks of an experiment, and how it finds one: by name, at run time, never by a static import.

``causal`` decides which architectures may stand in it: decoders, or bidirectional encoders; one that reads no text says itself
(``OwnData``). What an experiment's ``objective:`` may say is a frozen config, strict like every other part of a study.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from arch_lab.judge.measures import Measure
from arch_lab.study.registry import ExperimentSource, built_in, find_experiment
from blocks.config import Config
from blocks.errors import ConfigError
from blocks.user_code import describe

if TYPE_CHECKING:  # seconds to import, and finding an experiment needs none of it
    import lightning.pytorch as pl

    from arch_lab.training.datamodule import TextDataModule
    from arch_lab.training.module import LanguageModel


@dataclass(frozen=True, kw_only=True)
class NoOptions(Config):
    """The ``objective:`` of an experiment that has nothing to choose."""


class Certificate(Protocol):
    """What stands between a built model and its first metric."""

    @property
    def passed(self) -> bool: ...

    @property
    def reason(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


@runtime_checkable
class Experiment(Protocol):
    """Objective, data and metrics of one question. The first of ``measures`` is what a verdict is about; lower is better."""

    measures: tuple[Measure, ...]
    causal: bool
    objective: type[Config]

    def vocabulary(self, data: Any) -> int:
        """Rows of the token table (DataConfig), before any text is read."""

    def prepare(self, config: Any, cache: Path, progress: Callable[[str], None]) -> Any:
        """Data of the study (StudyConfig): ready, fingerprinted, large enough. Raises: UserError."""

    def certify(self, model: Any, config: Any, data: Any) -> Certificate:
        """What the built model of an arm of the study (StudyConfig) must pass before anything is trained. Never changes it."""

    def module(self, spec: Any) -> pl.LightningModule:
        """The LightningModule of one run (RunSpec)."""

    def datamodule(self, spec: Any, data: Any) -> pl.LightningDataModule:
        """The data of one run, in an order that is a function of (seed, step)."""

    def scores(
        self, trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule
    ) -> dict[str, float]:
        """Every metric on the held-out split, and ``tune_<primary>`` on the tuning split."""

    def baselines(self, config: Any, data: Any) -> list[dict[str, Any]]:
        """Trivial models under the same scoring, worst first."""


@runtime_checkable
class OwnData(Protocol):
    """Beside Experiment, of one that does not read text: its own ``data:`` options and its own kind of architecture."""

    data: type[Config]

    def resolve(self, config: Any) -> Any:
        """The study (StudyConfig) with what its data decides filled in, before anything is planned.

        Raises: ConfigError for an arm that is no architecture for this data, or options that contradict it.
        """


@runtime_checkable
class Fittable(Protocol):
    """Of an experiment that ``arch-lab fit`` can train: a decoder, certified as causal before any score."""

    def fit_classes(self) -> tuple[type[LanguageModel], type[TextDataModule]]:
        """The Lightning module and the data module, whose arguments are the keys ``model`` and ``data`` of fit."""


@runtime_checkable
class StudyEngine(Protocol):
    """An experiment whose study is not one training an arm: timings, many tasks. It reads, plans, runs and reports its own kind."""

    config: type[Config]

    def plan(
        self, study: str, *, overrides: list[str], data_root: str | None, threads: int | None
    ) -> dict[str, Any]:
        """What would be measured, as plain JSON values. Raises: UserError."""

    def compare(
        self,
        study: str,
        *,
        overrides: list[str],
        output: str | Path,
        data_root: str | None,
        threads: int | None,
        observer: Callable[[str, dict[str, Any]], None] | None,
    ) -> dict[str, Any]:
        """The content of study.json. ``observer``: None shows it in the terminal. Raises: UserError."""

    def render_plan(self, plan: dict[str, Any], console: Any) -> None:
        """``plan`` on a rich console."""

    def report(self, folder: Path) -> Path:
        """report.html of a study's folder, written again."""

    def markdown(self, folder: Path) -> str:
        """The tables of a study's folder, for a README."""


def own_engine(study: str, overrides: list[str] | None = None) -> StudyEngine | None:
    """The engine of a study (name or path) whose experiment brings one; None for the studies that train. Raises: ConfigError."""
    from arch_lab.study.library import find_study
    from arch_lab.study.study_file import read_study

    name, path = find_study(study)
    return engine_named(read_study(path, name=name, overrides=overrides or []).get("experiment"))


def engine_named(experiment: Any) -> StudyEngine | None:
    """As ``own_engine``, from the value of the key ``experiment``."""
    if not isinstance(experiment, str):
        return None  # absent: the default, which trains; anything else is for the study's configuration to refuse
    found: Any = load_experiment(experiment)
    return found if isinstance(found, StudyEngine) else None


def experiments() -> list[str]:
    """Names of the built-in experiments."""
    return [source.name for source in built_in()]


def _load(source: ExperimentSource) -> Any:
    from blocks.registry import import_object

    if ":" in source.name:
        return import_object(source.path)  # which asks whether its module is trusted
    try:
        return getattr(importlib.import_module(source.module), source.path.partition(":")[2])
    except ConfigError:
        raise
    except Exception as error:  # code of another package, which the user has installed
        raise ConfigError(
            f"experiment {source.name} = {source.path}: {describe(error)} (--debug shows the traceback)"
        ) from error


def load_experiment(name: str) -> Experiment:
    """The experiment called ``name`` or at an import path. Raises: ConfigError with the nearest name, or what it lacks."""
    source = find_experiment(name)
    if source.is_built_in:
        experiment: Experiment = importlib.import_module(source.module).EXPERIMENT
        return experiment
    loaded = _load(source)
    if not isinstance(loaded, (Experiment, StudyEngine)):
        parts = [
            *Experiment.__annotations__,
            *(name for name in vars(Experiment) if not name.startswith("_")),
        ]
        missing = [part for part in parts if not hasattr(loaded, part)]
        raise ConfigError(
            f"experiment {source.path!r} lacks {', '.join(missing)} (see arch_lab.study.experiment.Experiment)"
        )
    return loaded  # type: ignore[return-value]
