"""Keys of a throughput study: architectures x sequence lengths x modes x levels, at one parameter budget.

Legend: T tokens of a sequence, B sequences of a call (B·T = ``tokens_per_step``, or T where that is more).
Levels: ``mixer``, one sequence mixer at the arm's width; ``layer``, one whole residual layer; ``model``.
Modes: ``forward``, all logits without gradients; ``step``, forward, cross-entropy, backward and AdamW
(mixer and layer: forward and backward); ``prefill``, one prompt of T tokens; ``decode``, ``decode_tokens``
more tokens one by one after it. The last two are of models only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Annotated, Literal

from arch_lab.budget import Budget
from arch_lab.budget.budget import MatchOn
from arch_lab.fields import OptionalName, Seconds
from arch_lab.judge.crossover import Series
from arch_lab.stored import Json, Stored
from arch_lab.study.config import Arm, StudyConfig, check_arms
from blocks.config import Bounds, Config, Doc, Length, Unique
from blocks.errors import ConfigError, did_you_mean

Level = Literal["mixer", "layer", "model"]
Mode = Literal["forward", "step", "prefill", "decode"]
LEVELS: tuple[str, ...] = ("mixer", "layer", "model")
MODES: tuple[str, ...] = ("forward", "step", "prefill", "decode")
DECODING = ("prefill", "decode")  # one sequence at a time, of whole models, eager
LEAST_REPEATS = 3  # fewer have no quartiles; a cell that has no time for this many calls is a time-out


@dataclass(frozen=True, kw_only=True)
class SizeBudget(Config):
    """Parameters that every arm has. Nothing is trained, so there is no axis of length."""

    params: Annotated[
        int, Bounds(minimum=1, maximum=10**13), Doc("Parameters of an arm, counted as match_on says.")
    ]
    match_on: Annotated[MatchOn, Doc("Which parameters are held equal.")] = "body+head"
    tolerance: Annotated[
        float, Bounds(above=0, maximum=0.1), Doc("Relative deviation from the budget that an arm may have.")
    ] = 0.01
    allow_unmatched: Annotated[
        bool, Doc("Run even if an arm misses the budget; the report then shows a red banner.")
    ] = False

    def for_solver(self) -> Budget:
        """The same as a budget of the solver, which needs a length: one token has no say in any shape."""
        return Budget(**asdict(self), tokens=1)

    def to_json(self) -> Json:
        return {"params": self.params, "match_on": self.match_on}


@dataclass(frozen=True, kw_only=True)
class Group(Series):
    """Cells that are timed together, one per arm, so that drift of the machine cancels in their ratios."""

    tokens: int
    batch: int

    @property
    def slug(self) -> str:
        """Name of its task and folder: 'model_forward_T128', 'model_forward_T128_compiled'."""
        return f"{self.level}_{self.mode}_T{self.tokens}{'_compiled' if self.compiled else ''}"

    @property
    def label(self) -> str:
        return f"{self.level} {self.mode_label}, T {self.tokens}"


@dataclass(frozen=True, kw_only=True)
class PlannedGroup(Group):
    """A group with a rough estimate of its time."""

    estimate_seconds: float


@dataclass(frozen=True, kw_only=True)
class PlanSettings(Stored):
    """What a plan holds beside arms and budget. The fields: see ThroughputConfig."""

    subject: str
    match_length: int
    tokens_per_step: int
    decode_tokens: int
    repeats: int
    cell_seconds: float
    dtype: str
    groups: tuple[PlannedGroup, ...]


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig(StudyConfig):
    """Keys of a study of speed.

    The speed of ``subject`` is stated as a ratio to every other arm; default: the last arm.
    """

    experiment: Annotated[Literal["throughput"], Doc("What is measured.")] = "throughput"
    arms: Annotated[list[Arm], Length(1, 100), Doc("The architectures to time.")]
    budget: Annotated[SizeBudget, Doc("What is equal for every arm: parameters.")]
    vocabulary: Annotated[int, Bounds(minimum=2, maximum=2**24), Doc("Size of the vocabulary.")] = 1024
    match_length: Annotated[
        int,
        Bounds(minimum=2, maximum=2**20),
        Doc("Sequence length at which shapes are solved, once for every length timed."),
    ] = 1024
    lengths: Annotated[
        list[Annotated[int, Bounds(minimum=2, maximum=2**24)]],
        Length(1, 100),
        Unique(),
        Doc("Sequence lengths to time, in tokens."),
    ]
    levels: Annotated[
        list[Level], Length(1), Unique(), Doc("What is timed: the mixer alone, a whole layer, the model.")
    ] = field(
        default_factory=lambda: ["mixer", "layer", "model"]  # type: ignore[arg-type]
    )
    modes: Annotated[
        list[Mode],
        Length(1),
        Unique(),
        Doc("What each model does: forward pass, training step, prefill of a prompt, decoding."),
    ] = field(default_factory=lambda: ["forward", "step", "prefill", "decode"])  # type: ignore[arg-type]
    compiled: Annotated[
        list[bool],
        Length(1),
        Unique(),
        Doc("Whether to use torch.compile, 20 to 60 s per shape on a CPU; both may be listed."),
    ] = field(default_factory=lambda: [False])
    tokens_per_step: Annotated[
        int,
        Bounds(minimum=2, maximum=2**30),
        Doc("Tokens per call; the batch size is this divided by the length."),
    ] = 4096
    decode_tokens: Annotated[
        int, Bounds(minimum=2, maximum=2**20), Doc("Tokens decoded after each prompt.")
    ] = 64
    repeats: Annotated[
        int,
        Bounds(minimum=LEAST_REPEATS, maximum=10_000),
        Doc("Interleaved rounds; fewer if cell_seconds runs out."),
    ] = 7
    cell_seconds: Annotated[
        Seconds, Doc("Seconds for one arm at one length, level and mode, warm-up included.")
    ] = 60.0
    subject: Annotated[
        OptionalName, Doc("The arm that every other arm is compared with; empty: the last one.")
    ] = ""
    threads: Annotated[
        int | None, Bounds(minimum=1, maximum=4096), Doc("CPU threads; null: the default of torch.")
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16"], Doc("Number format; bfloat16 is autocast, for GPUs.")
    ] = "float32"

    def __post_init__(self) -> None:
        check_arms(self.name, self.arms)
        names = [arm.name for arm in self.arms]
        if not self.subject:
            object.__setattr__(self, "subject", names[-1])
        if self.subject not in names:
            hint = did_you_mean(self.subject, names)
            raise ConfigError(f"study {self.name!r}: subject {self.subject!r} is not an arm{hint}")

    @classmethod
    def with_data_root(cls, content: Json, root: str) -> Json:
        raise ConfigError("--data-root: a throughput study reads no data; leave it out")

    def batch(self, mode: str, tokens: int) -> int:
        """Sequences of one call."""
        return 1 if mode in DECODING else max(1, self.tokens_per_step // tokens)

    def series(self) -> list[Series]:
        """What is timed at every length, in order."""
        every = product(self.levels, self.modes, self.compiled)
        return [
            Series(level=level, mode=mode, compiled=compiled)
            for level, mode, compiled in every
            if not (mode in DECODING and (level != "model" or compiled))
        ]

    def groups(self) -> list[Group]:
        """What is timed, in order: each group is every arm at one length, level and mode, interleaved."""
        return [
            Group(**asdict(series), tokens=tokens, batch=self.batch(series.mode, tokens))
            for tokens, series in product(sorted(self.lengths), self.series())
        ]
