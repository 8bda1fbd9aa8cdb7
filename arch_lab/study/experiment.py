"""The experiments a study can name, found by name at run time, never by a static import."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from arch_lab.study.open_study import Experiment
from arch_lab.study.registry import ExperimentSource, built_in, find_experiment
from blocks.config import Config
from blocks.errors import ConfigError
from blocks.user_code import describe

if TYPE_CHECKING:  # seconds to import, and finding an experiment needs none of it
    from arch_lab.training.datamodule import TextDataModule
    from arch_lab.training.module import LanguageModel


@dataclass(frozen=True, kw_only=True)
class NoOptions(Config):
    """The ``objective:`` of an experiment that has nothing to choose."""


@runtime_checkable
class Fittable(Protocol):
    """An experiment that ``arch-lab fit`` can train: a decoder, certified as causal before any score."""

    def fit_classes(self) -> tuple[type[LanguageModel], type[TextDataModule]]:
        """The Lightning module and the data module, whose arguments are the keys ``model`` and ``data`` of fit."""


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
    if not isinstance(loaded, Experiment):
        raise ConfigError(
            f"experiment {source.path!r} is {type(loaded).__name__}, not an instance of a subclass of "
            "arch_lab.study.Experiment (see CONTRIBUTING.md)"
        )
    return loaded
