"""Keys of a study file, strict to the last one: an unknown key is an error that names the nearest valid one, at any depth.

``--set training.batch_size=4`` on the command line goes through the same parser as the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from arch_lab.budget.budget import Budget
from arch_lab.fields import (
    ArchitectureName,
    BatchSize,
    ExperimentName,
    LearningRates,
    Name,
    OptionalName,
    PathText,
    Seconds,
    Seeds,
    Text,
    Tokens,
    Widen,
    tuning_seeds_problem,
)
from arch_lab.models.recipe import Recipe, Shape
from arch_lab.models.registry import recipe
from arch_lab.stored import Json
from arch_lab.study.loggers import LoggerConfig, entries
from arch_lab.study.search import Search
from arch_lab.training.optimizer import GroupRule, OptimizerConfig
from blocks.config import Bounds, Config, Doc, Length, Options
from blocks.errors import ConfigError, UnknownOption

C = TypeVar("C", bound=Config)
T = TypeVar("T", bound="TunedStudyConfig")


@dataclass(frozen=True, kw_only=True)
class FixedShape(Config):
    """A shape the user insists on; the gate still judges it."""

    width: Annotated[
        int, Bounds(minimum=1, maximum=2**17), Doc("Model width: size of the vector of a token.")
    ]
    depth: Annotated[int, Bounds(minimum=1, maximum=512), Doc("Layers.")]
    ffn_width: Annotated[int, Bounds(minimum=1, maximum=2**20), Doc("Hidden width of the channel mixers.")]


@dataclass(frozen=True, kw_only=True)
class Arm(Config):
    """One side of the comparison. ``name`` defaults to the architecture; ``shape`` to what the solver finds."""

    architecture: Annotated[
        ArchitectureName,
        Doc(
            "What to build: gemma3, m2_gpt, custom (your own mixer) and others, or the import path of a recipe."
        ),
    ]
    name: Annotated[OptionalName, Doc("Name in tables and folders; empty: the name of the architecture.")] = (
        ""
    )
    options: Annotated[
        Options, Doc("Options of the architecture (arch-lab keys --architecture NAME lists them).")
    ] = field(default_factory=dict)
    shape: Annotated[FixedShape | None, Doc("Fixed shape; null: the budget solver chooses one.")] = None
    initialise_from: Annotated[
        PathText | None,
        Doc(
            "Checkpoint whose options, shape and weights the arm starts from; null: weights drawn from the seed."
        ),
    ] = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(
                self, "name", self.architecture.rpartition(":")[2]
            )  # of an import path: the class

    def recipe(self) -> Recipe:
        return recipe(self.architecture, self.options)

    def fixed(self) -> Shape | None:
        return Shape(**asdict(self.shape)) if self.shape else None


@dataclass(frozen=True, kw_only=True)
class Training(OptimizerConfig):
    """What every arm shares while training. Declared once, printed in the plan."""

    sequence_length: Annotated[Tokens, Doc("Tokens of one training sequence.")] = 256
    batch_size: Annotated[BatchSize, Doc("Sequences per step.")] = 16
    micro_batch: Annotated[
        BatchSize | None,
        Doc("Sequences at a time within a step, to save memory; divides batch_size. null: all at once."),
    ] = None
    warmup_tokens: Annotated[
        int | None,
        Bounds(minimum=1, maximum=10**13),
        Doc("Tokens over which the learning rate rises from zero, instead of warmup_fraction."),
    ] = None
    evaluations: Annotated[
        int,
        Bounds(minimum=1, maximum=10_000),
        Doc("How many times to score the tuning split; the last time is the end."),
    ] = 4
    checkpoint_seconds: Annotated[
        Seconds, Doc("Seconds between checkpoints: at most this much work is lost when a run is killed.")
    ] = 120.0
    groups: Annotated[
        list[GroupRule],
        Length(0, 100),
        Doc("Learning rates and weight decays by parameter name, the same rules for every arm."),
    ] = field(default_factory=list)
    precision: Annotated[
        Literal["32-true", "bf16-mixed"],
        Doc("Number format; bf16-mixed is for GPUs, 16 to 60 times slower on most CPUs."),
    ] = "32-true"

    def __post_init__(self) -> None:
        names = [rule.name for rule in self.groups]
        if len(set(names)) != len(names):
            raise ConfigError("training.groups: two groups have the same name")
        if self.batch_size % self.rows:
            raise ConfigError(
                f"training.micro_batch: {self.rows} does not divide batch_size {self.batch_size}; "
                f"the nearest that does is {_nearest_divisor(self.batch_size, self.rows)}"
            )

    @property
    def warmup_steps(self) -> int | None:
        """Steps of the warm-up where it is fixed in tokens."""
        if self.warmup_tokens is None:
            return None
        return max(1, round(self.warmup_tokens / (self.sequence_length * self.batch_size)))

    @property
    def rows(self) -> int:
        """Sequences of one forward pass."""
        return self.micro_batch or self.batch_size


def _nearest_divisor(number: int, wanted: int) -> int:
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wanted))


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Config):
    """Keys of every study. A kind of study adds its own in a subclass."""

    name: Annotated[Name, Doc("Name of the study and of its folder; default: the name of the file.")]
    description: Annotated[Text, Doc("The question in one line, shown in lists and reports.")] = ""
    experiment: Annotated[ExperimentName, Doc("What is learned and scored, and on what kind of data.")]

    @classmethod
    def with_data_root(cls, content: Json, root: str) -> Json:
        """The content of a study file with ``--data-root`` applied. Raises: ConfigError where no data are read."""
        raise ConfigError(f"--data-root: a study of {content.get('experiment')} reads no data; leave it out")

    def to_json(self) -> Json:
        """Plain values, as YAML would hold them (tuples become lists)."""
        plain_values: Json = plain(asdict(self))
        return plain_values

    def to_identity(self) -> Json:
        """``to_json`` without the keys that determine no number."""
        return {key: value for key, value in self.to_json().items() if key != "loggers"}


@dataclass(frozen=True, kw_only=True)
class TunedStudyConfig(StudyConfig):
    """A study that chooses a learning rate for each arm and repeats it over seeds.

    ``widen``: how often the grid may grow, for all arms, when the optimum of one lies on its edge.
    """

    learning_rates: Annotated[
        LearningRates | None,
        Doc("Learning rates to train every arm at; the best one on the tuning split is reported."),
    ]
    seeds: Annotated[Seeds, Doc("Seeds of weights and data order; a verdict needs at least three.")]
    tuning_seeds: Annotated[
        Seeds | None,
        Doc("Seeds trained at every rate; the others run at the chosen rate only. null: all seeds."),
    ] = None
    widen: Annotated[
        Widen, Doc("How many times the grid of rates may grow when the best rate is at its edge.")
    ] = 0
    loggers: Annotated[
        list[LoggerConfig],
        Length(0, 20),
        Doc("Additional loggers of each run, besides TensorBoard; they may be changed at any time."),
    ] = field(default_factory=list)

    def __post_init__(self) -> None:
        problem = tuning_seeds_problem(self.tuning_seeds, self.seeds)
        if problem:
            raise ConfigError(f"study {self.name!r}: {problem}")

    @classmethod
    def from_options(cls: type[T], options: Json, *, where: str = "") -> T:
        """As for every config; a bare class path may stand for a logger."""
        if "loggers" in options:
            options = {**options, "loggers": entries(options["loggers"])}
        return super().from_options(options, where=where)  # type: ignore[misc]

    @property
    def grid_seeds(self) -> list[int]:
        """Seeds that run at every learning rate."""
        return self.seeds if self.tuning_seeds is None else self.tuning_seeds

    @property
    def other_seeds(self) -> list[int]:
        """Seeds that run at the chosen learning rate only."""
        return [seed for seed in self.seeds if seed not in self.grid_seeds]


TWIN = 1_000_000  # added to the seed of an arm for its twin


@dataclass(frozen=True, kw_only=True)
class TrainingStudyConfig(TunedStudyConfig):
    """A study that trains every arm once at one budget: architectures x budget x data x learning rates x seeds."""

    experiment: Annotated[ExperimentName, Doc("What is learned and scored, and on what kind of data.")] = (
        "perplexity"
    )
    arms: Annotated[list[Arm], Length(1, 100), Doc("The architectures to compare.")]
    budget: Annotated[Budget, Doc("What is equal for every arm.")]
    data: Annotated[
        Options | Config, Doc("What to train on; experiments that do not read text have other keys here.")
    ]
    objective: Annotated[Options, Doc("Options of the experiment.")] = field(default_factory=dict)
    training: Annotated[Training, Doc("How every arm is trained.")] = field(default_factory=Training)
    learning_rates: Annotated[
        LearningRates | None,
        Doc("Learning rates to train every arm at; null: search says what is tried."),
    ] = None
    search: Annotated[
        Search | None,
        Doc("Hyper-parameters to search, the same draws for every arm; null: learning_rates alone."),
    ] = None
    forecast: Annotated[
        PathText | None,
        Doc("Forecast (arch-lab forecast) that this study puts to the test: its report shows the outcome."),
    ] = None
    control: Annotated[
        bool,
        Doc("Train a twin of each arm with other seeds, which must come out not distinguishable from it."),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_arms(self.name, self.arms)
        self._check_search()
        if self.control and max(self.seeds) >= TWIN:
            raise ConfigError(f"study {self.name!r}: seeds from {TWIN} on are those of control: true")

    def _check_search(self) -> None:
        where = f"study {self.name!r}"
        if (self.learning_rates is None) == (self.search is None):
            found = "neither" if self.search is None else "both"
            raise ConfigError(f"{where}: give one of learning_rates and search, not {found}")

    @property
    def rates(self) -> list[float]:
        """Learning rates of the study, at the reference size; empty where draws are searched."""
        if self.learning_rates is not None:
            return sorted(self.learning_rates)
        return self.search.learning_rates if self.search is not None else []

    @property
    def control_seeds(self) -> list[int]:
        """Seeds of the twins, in the order of ``seeds``."""
        return [TWIN + seed for seed in self.seeds] if self.control else []

    @classmethod
    def with_data_root(cls, content: Json, root: str) -> Json:
        data = content.get("data", {})
        return {**content, "data": {**data, "root": root}} if isinstance(data, dict) else content


def check_arms(study: str, arms: Sequence[Arm]) -> None:
    """Raises: ConfigError when two share a name."""
    names = [a.name for a in arms]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise ConfigError(
            f"study {study!r}: two arms are called {sorted(twice)[0]!r}; give one a different name"
        )


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def from_study(cls: type[C], content: Json, name: str) -> C:
    """The configuration of a study. Raises: ConfigError; an unknown key comes with the command that lists the valid ones."""
    with naming_keys(name):
        return cls.from_options(content, where=f"study {name!r}")


@contextmanager
def naming_keys(name: str) -> Iterator[None]:
    """Inside, an unknown key of study ``name`` is refused with the command that lists the valid ones."""
    where = f"study {name!r}"
    try:
        yield
    except UnknownOption as error:
        section = error.where.removeprefix(where).removeprefix(".")
        hint = f"arch-lab keys {section}" if error.where.startswith(where) and section else "arch-lab keys"
        raise ConfigError(f"{error} ({hint})") from None
