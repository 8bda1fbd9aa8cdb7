"""A study file: architectures x budget x data x learning rates x seeds, strict to the last key.

Unknown keys are errors that name the nearest valid one, at any depth. ``--set training.batch_size=4`` on the command
line goes through the same parser as the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from arch_lab.architecture.recipe import Recipe, Shape, recipe
from arch_lab.budget.budget import Budget
from arch_lab.data import DataConfig
from arch_lab.study.experiment import OwnData, load_experiment
from arch_lab.training.optimizer import GroupRule
from arch_lab.yaml_files import DEEPEST, load_yaml, parse_yaml
from blocks.contract import BlockConfig
from blocks.errors import ConfigError, shown


@dataclass(frozen=True, kw_only=True)
class FixedShape(BlockConfig):
    """A shape the user insists on; the gate still judges it."""

    width: int
    depth: int
    ffn_width: int


@dataclass(frozen=True, kw_only=True)
class Arm(BlockConfig):
    """One side of the comparison. ``name`` defaults to the architecture; ``shape`` to what the solver finds."""

    architecture: str
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    shape: FixedShape | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.architecture)
        if not self.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ConfigError(f"arm name {self.name!r}: letters, digits, '.', '_' and '-' only (it names a folder)")

    def recipe(self) -> Recipe:
        return recipe(self.architecture, self.options)

    def fixed(self) -> Shape | None:
        return Shape(**asdict(self.shape)) if self.shape else None


@dataclass(frozen=True, kw_only=True)
class Training(BlockConfig):
    """What every arm shares while training. Declared once, printed in the plan."""

    sequence_length: int = 256
    batch_size: int = 16  # sequences a step
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    warmup_fraction: float = 0.05
    final_fraction: float = 0.1
    clip_norm: float = 1.0
    evaluations: int = 4  # looks at the tuning split, the last one at the end
    checkpoint_seconds: float = 120  # how much work a kill may cost
    groups: list[GroupRule] = field(default_factory=list)  # rates and decays by parameter name, the same rules for every arm
    precision: Literal["32-true", "bf16-mixed"] = "32-true"  # bf16 is for GPUs: 16-60x slower on most CPUs

    def __post_init__(self) -> None:
        for name in ("sequence_length", "batch_size", "evaluations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.warmup_fraction < 1 or not 0 <= self.final_fraction <= 1:
            raise ConfigError("training: warmup_fraction must lie in [0, 1) and final_fraction in [0, 1]")
        names = [rule.name for rule in self.groups]
        if len(set(names)) != len(names):
            raise ConfigError("training.groups: two groups have the same name")
        for name in ("clip_norm", "checkpoint_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"training.{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class StudyConfig(BlockConfig):
    """A whole study. ``widen`` is how often the learning-rate grid may grow when an arm's optimum sits on its edge."""

    name: str
    description: str = ""
    experiment: str = "perplexity"
    arms: list[Arm]
    budget: Budget
    data: BlockConfig  # DataConfig, or the options of an experiment that does not read text
    objective: dict[str, Any] = field(default_factory=dict)  # options of the experiment, checked by it
    training: Training = field(default_factory=Training)
    learning_rates: list[float]
    seeds: list[int]
    tuning_seeds: list[int] | None = None  # None: every seed at every rate; else the others run at the chosen rate only
    widen: int = 0

    def __post_init__(self) -> None:
        check_arms(self.name, self.arms)
        if not self.learning_rates or any(rate <= 0 for rate in self.learning_rates):
            raise ConfigError(f"study {self.name!r}: learning_rates must be a list of positive numbers")
        if len(set(self.learning_rates)) != len(self.learning_rates) or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError(f"study {self.name!r}: learning_rates and seeds must not repeat")
        if not self.seeds:
            raise ConfigError(f"study {self.name!r}: needs at least one seed")
        if self.tuning_seeds is not None and not (self.tuning_seeds and set(self.tuning_seeds) <= set(self.seeds)):
            raise ConfigError(f"study {self.name!r}: tuning_seeds must be some of seeds")

    @classmethod
    def from_options(cls, options: dict[str, Any], *, where: str = "") -> StudyConfig:
        """As for every config; which options ``data`` has is the experiment's to say."""
        data, name = options.get("data"), options.get("experiment", cls.experiment)
        if isinstance(data, dict) and isinstance(name, str):
            experiment = load_experiment(name)
            kind = experiment.data if isinstance(experiment, OwnData) else DataConfig
            options = {**options, "data": kind.from_options(data, where=f"{where or cls.__name__}.data")}
        return super().from_options(options, where=where)

    @property
    def grid_seeds(self) -> list[int]:
        return self.seeds if self.tuning_seeds is None else self.tuning_seeds

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as YAML would hold them (tuples become lists)."""
        return plain(asdict(self))


def check_arms(study: str, arms: Sequence[Arm]) -> None:
    """Raises: ConfigError when there is none, or when two share a name."""
    if not arms:
        raise ConfigError(f"study {study!r}: needs at least one arm")
    names = [a.name for a in arms]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise ConfigError(f"study {study!r}: two arms are called {sorted(twice)[0]!r}; give one a name of its own")


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def load_study(path: Path, *, name: str, overrides: Sequence[str] = (), data_root: str | None = None) -> StudyConfig:
    """Parse, override, validate. Raises: ConfigError naming file and key; nothing is written."""
    content = read_study(path, name=name, overrides=overrides)
    if data_root is not None:
        content.setdefault("data", {})
        if isinstance(content["data"], dict):
            content["data"]["root"] = data_root
    return StudyConfig.from_options(content, where=f"study {name!r}")


def read_study(path: Path, *, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a study file, overrides applied, not yet validated. Raises: ConfigError naming the file."""
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a study is a mapping of keys (arms, budget, data, …), got {type(content).__name__}")
    for override in overrides:
        _apply(content, override)
    content.setdefault("name", name)
    return content


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {shown(override)}: expected key.path=value, e.g. training.batch_size=4")
    value = parse_yaml(text, where=f"--set {key}")
    *parents, last = key.split(".")
    if len(parents) >= DEEPEST:
        raise ConfigError(f"--set {shown(key)}: nested deeper than {DEEPEST} levels")
    node: Any = content
    for part in parents:
        node = node[int(part)] if _is_index(node, part) else _child(node, part, override)
    if _is_index(node, last):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {shown(override)}: {shown(last)} does not exist there")


def _is_index(node: Any, part: str) -> bool:
    return isinstance(node, list) and part.isascii() and part.isdigit() and len(part) < 9 and int(part) < len(node)


def _child(node: Any, part: str, override: str) -> Any:
    if not isinstance(node, dict):
        raise ConfigError(f"--set {shown(override)}: {shown(part)} does not exist there")
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def with_rates(config: StudyConfig, rates: list[float]) -> StudyConfig:
    return replace(config, learning_rates=rates)
