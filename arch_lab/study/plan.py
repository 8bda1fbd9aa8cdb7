"""Plans: what a study will do, before anything is trained. plan.json holds one, with the study's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from arch_lab.accounting.ledger import Component
from arch_lab.budget.gate import Miss
from arch_lab.judge.control import Noise
from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.regime import FittedRule, Regime
from arch_lab.models import Shape
from arch_lab.stored import VERSION, Facts, Stored
from arch_lab.study.search import Grid


@dataclass(frozen=True, kw_only=True)
class Estimate(Stored):
    """Rough cost of one trial, from a matrix product timed on this machine."""

    seconds_per_trial: float
    memory_bytes: float


@dataclass(frozen=True, kw_only=True)
class Calibration(Stored):
    """Seconds of a training step, for a budget in seconds. ``source``: "estimate" or "measured"."""

    seconds_per_step: float
    source: str


@dataclass(frozen=True, kw_only=True)
class OptimizerGroup(Stored):
    """Parameters of an arm that train at ``rate`` times the learning rate with one weight decay.

    ``declared``: by their blocks, not by ``training.groups`` of the study.
    """

    name: str
    parameters: int
    rate: float
    weight_decay: float
    declared: bool

    @property
    def label(self) -> str:
        """Name with what sets the group apart, such as "filters × 0.02"."""
        rate = "" if self.rate == 1 else f" × {self.rate:g}"
        decay = f", decay {self.weight_decay:g}" if self.weight_decay else ""
        return f"{self.name}{rate}{decay}"


@dataclass(frozen=True, kw_only=True)
class InitialWeights(Stored):
    """Checkpoint that an arm starts from."""

    path: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class PlannedArm(Stored):
    """One side of a comparison.

    ``tuned``: whether it has a learning rate; without one, each seed is one trial. ``seeded``: False where chance plays no part, so
    that one trial says all. ``baseline``: shown with the others, and in no pair. ``tasks``: those it applies to, None for all.
    ``size``: nominal, of one of an arm's sizes, which is called after both. ``facts``: shown. ``code``: file -> hash of the
    sources that its trials use (arch_lab.study.code_identity).
    The other fields are of an architecture that was solved to a budget. ``parameters``: embedding, head, body, total.
    ``deviation``: budget axis -> signed relative distance. FLOPs are training FLOPs; ``elementwise_per_token`` is in no budget.
    """

    name: str
    size: int | None = None
    tuned: bool = True
    seeded: bool = True
    baseline: bool = False
    tasks: tuple[str, ...] | None = None
    facts: Facts = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)

    architecture: str = ""
    options: Facts = field(default_factory=dict)
    width: int | None = None
    depth: int | None = None
    ffn_width: int | None = None
    parameters: dict[str, int] = field(default_factory=dict)
    flops_per_token: int | float | None = None
    train_flops: int | float | None = None
    tokens: int | None = None
    steps: int | None = None
    deviation: dict[str, float] = field(default_factory=dict)
    components: tuple[Component, ...] = ()
    elementwise_per_token: float | None = None
    conventions: dict[str, float] = field(default_factory=dict)
    state_bytes: int | None = None
    optimizer_groups: tuple[OptimizerGroup, ...] = ()
    estimate: Estimate | None = None
    calibration: Calibration | None = None
    initialise_from: InitialWeights | None = None

    @property
    def shape(self) -> Shape:
        """Of an architecture. Raises: AssertionError for an arm without one."""
        assert self.width is not None and self.depth is not None and self.ffn_width is not None
        return Shape(width=self.width, depth=self.depth, ffn_width=self.ffn_width)

    @property
    def regime(self) -> Regime | None:
        """Size and training tokens, of an architecture that is trained."""
        if not self.flops_per_token or not self.tokens:
            return None
        return Regime.of(float(self.flops_per_token), self.tokens)

    def applies_to(self, task: str) -> bool:
        return self.tasks is None or task in self.tasks


@dataclass(frozen=True, kw_only=True)
class Plan(Stored):
    """Arms x tasks x hyper-parameters x seeds of one experiment.

    ``sizes``: arm -> its models at each budget and size, spare ones included, where a study has sizes; its ``arms`` then have no
    shape. ``grid``: what else trials are chosen among. ``absent``: task -> why it cannot be scored. ``budget``: its axes as the
    study gives them, empty where none is held. ``matched``: whether every arm meets it; ``override``: compared although some do
    not. ``trials``: their number, before the grid grows. ``control_seeds``: of twins of the arms, in the order of ``seeds``.
    ``noise``: of differences, measured by an earlier control; ``rule``: compute-optimal sizes, fitted by an earlier
    study. ``settings``: what is equal for every arm and shown, such as the sizes of a study of speed.
    """

    version: int = VERSION
    study: str
    experiment: str
    description: str = ""
    tasks: tuple[Task, ...]
    absent: dict[str, str] = field(default_factory=dict)
    arms: tuple[PlannedArm, ...]
    sizes: dict[str, tuple[PlannedArm, ...]] = field(default_factory=dict)
    grid: Grid = field(default_factory=Grid)
    budget: Facts = field(default_factory=dict)
    tolerance: float | None = None
    matched: bool = True
    override: bool = False
    misses: tuple[Miss, ...] = ()
    vocabulary: int | None = None
    sequence_length: int | None = None
    batch_size: int | None = None
    training: Facts = field(default_factory=dict)
    objective: Facts = field(default_factory=dict)
    settings: Facts = field(default_factory=dict)
    learning_rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    tuning_seeds: tuple[int, ...] = ()
    control_seeds: tuple[int, ...] = ()
    widen: int = 0
    noise: Noise | None = None
    rule: FittedRule | None = None
    trials: int
    warnings: tuple[str, ...] = ()

    def task(self, name: str = "") -> Task:
        return next(task for task in self.tasks if task.name == name)

    def arm(self, name: str) -> PlannedArm:
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def budgets(self) -> tuple[float, ...]:
        """Training FLOPs of each budget of a study with sizes, in the order of its tasks."""
        flops = self.budget.get("train_flops")
        return tuple(sorted(flops)) if isinstance(flops, (list, tuple)) else () if flops is None else (flops,)

    @property
    def models(self) -> tuple[PlannedArm, ...]:
        """What is built and trained: the arms, or their sizes at every budget, without spare ones."""
        if not self.sizes:
            return self.arms
        return tuple(
            model
            for task, sizes in self.grid.sizes.items()
            for models in self.sizes.values()
            for model in models
            if model.applies_to(task) and model.size in sizes
        )

    @property
    def shapes(self) -> tuple[PlannedArm, ...]:
        """The models that differ, whatever budget they are trained for."""
        return tuple({model.name: model for model in reversed(self.models)}.values())[::-1]

    def model(self, arm: str, size: int | None, task: str) -> PlannedArm:
        """What a trial of an arm trains."""
        if size is None:
            return self.arm(arm)
        return next(m for m in self.sizes[arm] if m.size == size and m.applies_to(task))

    def tuning_trials(self, task: str) -> int:
        """Trials of one arm on a task that choose, before the grid grows."""
        settings = len(self.grid.draws) or len(self.learning_rates)
        if self.grid.keep is not None and task != self.tasks[0].name:
            settings = min(settings, self.grid.keep)
        return settings * len(self.grid.sizes.get(task, (0,))) * len(self.tuning_seeds)

    def arms_of(self, task: str) -> list[PlannedArm]:
        """The arms that apply to a task."""
        return [arm for arm in self.arms if arm.applies_to(task)]

    @property
    def twins(self) -> dict[int, int]:
        """Seed of a twin -> seed of its arm."""
        return dict(zip(self.control_seeds, self.seeds, strict=True)) if self.control_seeds else {}

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Measures of the first task: those of the study, where it has one."""
        return self.tasks[0].measures

    @property
    def primary(self) -> Measure:
        return self.measures[0]

    @property
    def has_models(self) -> bool:
        """Whether its arms are architectures that were solved to a budget."""
        return any(arm.parameters for arm in self.models)

    @property
    def has_tasks(self) -> bool:
        """Whether tasks have names: a study of one task has one without."""
        return any(task.name for task in self.tasks)
