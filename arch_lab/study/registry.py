"""The experiments that are installed, without importing any: built in, declared by other packages, or named by a path.

A package declares ``name = "package.module:EXPERIMENT"`` in the entry-point group ``arch_lab.experiments``. Its study
files (YAML) lie beside that module. A study may also name ``package.module:EXPERIMENT`` itself.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from blocks.errors import ConfigError, did_you_mean, shown

GROUP = "arch_lab.experiments"
BUILT_IN = Path(__file__).resolve().parents[2] / "experiments"


@dataclass(frozen=True)
class ExperimentSource:
    """Where an experiment is defined. ``path``: package.module:NAME."""

    name: str
    path: str
    is_built_in: bool = False

    @property
    def module(self) -> str:
        return self.path.partition(":")[0]

    def file(self) -> Path | None:
        """The file of the module, which is not executed (its parent packages are). None where there is none."""
        try:
            spec = importlib.util.find_spec(self.module)
        except Exception as error:  # code of another package: listing goes on without it
            print(
                f"warning: experiment {self.name} = {self.path}: {type(error).__name__}: {error}",
                file=sys.stderr,
            )
            return None
        return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None

    def code(self) -> list[Path]:
        """What the experiment consists of: the folder of its module, or the one file of a module outside any package."""
        if self.is_built_in:
            return [BUILT_IN / self.name]
        file = self.file()
        if file is None:
            return []
        return [file.parent] if "." in self.module else [file]

    def study_files(self) -> list[Path]:
        """YAML files beside the module, by name."""
        if self.is_built_in:
            return sorted((BUILT_IN / self.name).glob("*.yaml"))
        file = self.file()
        return [] if file is None else sorted(file.parent.glob("*.yaml"))


def built_in() -> list[ExperimentSource]:
    """The experiments of this package, found by location: arch_lab never imports experiments."""
    names = sorted(path.parent.name for path in BUILT_IN.glob("*/experiment.py"))
    return [
        ExperimentSource(name, f"experiments.{name}.experiment:EXPERIMENT", is_built_in=True)
        for name in names
    ]


def plug_ins() -> list[ExperimentSource]:
    """The experiments that installed packages declare; a built-in name stays with its owner."""
    reserved = {source.name for source in built_in()}
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    return [ExperimentSource(point.name, point.value) for point in points if point.name not in reserved]


def installed() -> list[ExperimentSource]:
    return [*built_in(), *plug_ins()]


def find_experiment(name: str) -> ExperimentSource:
    """The experiment called ``name``, or at import path ``package.module:NAME``. Raises: ConfigError with the nearest name."""
    if ":" in name:
        return ExperimentSource(name, name)
    sources = installed()
    matches = list(dict.fromkeys(source for source in sources if source.name == name))
    if not matches:
        raise ConfigError(f"unknown experiment {shown(name)}{did_you_mean(name, _names(sources))}")
    if len(matches) > 1:
        paths = " and ".join(source.path for source in matches)
        raise ConfigError(f"experiment {name!r} is declared by {paths}; name one by its import path")
    return matches[0]


def _names(sources: Iterable[ExperimentSource]) -> list[str]:
    return sorted({source.name for source in sources})
