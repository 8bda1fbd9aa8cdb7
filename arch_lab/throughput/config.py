"""A throughput study: architectures x sequence lengths x modes x levels, at one parameter budget; strict like every study.

Legend: T tokens of a sequence, B sequences of a call (B·T = ``tokens_per_step``, or T where that is more).
Levels: ``mixer``, one sequence mixer at the arm's width; ``layer``, one whole residual layer; ``model``. Modes: ``forward``, all
logits without gradients; ``step``, forward, cross-entropy, backward and AdamW (mixer and layer: forward and backward);
``prefill``, one prompt of T tokens; ``decode``, ``decode_tokens`` more tokens one by one after it. The last two are of models only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from arch_lab.budget import Budget
from arch_lab.budget.budget import MatchOn
from arch_lab.study.config import Arm, check_arms, plain, read_study
from arch_lab.study.library import find_study
from blocks.contract import BlockConfig
from blocks.errors import ConfigError, did_you_mean

Level = Literal["mixer", "layer", "model"]
Mode = Literal["forward", "step", "prefill", "decode"]
DECODING = ("prefill", "decode")  # one sequence at a time, of whole models, eager
LEAST_REPEATS = 3  # fewer have no quartiles; what cannot be called this often within its time is a time-out


@dataclass(frozen=True, kw_only=True)
class SizeBudget(BlockConfig):
    """What is held equal: parameters. Nothing is trained, so there is no axis of length. Keys as in ``arch_lab.budget.Budget``."""

    params: int
    match_on: MatchOn = "body+head"
    tolerance: float = 0.01
    allow_unmatched: bool = False

    def __post_init__(self) -> None:
        self.for_solver()  # its checks are ours

    def for_solver(self) -> Budget:
        # a budget needs a length; one token settles that without a say in any shape
        return Budget(**asdict(self), tokens=1)

    def to_json(self) -> dict[str, Any]:
        return {"params": self.params, "match_on": self.match_on}


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig(BlockConfig):
    """A whole study. ``subject`` is the arm whose speed is stated as a ratio to every other; the last one by default."""

    name: str
    description: str = ""
    experiment: Literal["throughput"] = "throughput"
    arms: list[Arm]
    budget: SizeBudget
    vocabulary: int = 1024
    match_length: int = 1024  # shapes are solved here, once, and serve every T; parameters that grow with T are listed
    lengths: list[int]
    levels: list[Level] = field(default_factory=lambda: ["mixer", "layer", "model"])  # type: ignore[arg-type]
    modes: list[Mode] = field(default_factory=lambda: ["forward", "step", "prefill", "decode"])  # type: ignore[arg-type]
    compiled: list[bool] = field(default_factory=lambda: [False])  # torch.compile takes 20 to 60 s a shape on a CPU
    tokens_per_step: int = 4096
    decode_tokens: int = 64
    repeats: int = 7  # interleaved rounds, fewer where ``cell_seconds`` does not allow them
    cell_seconds: float = 60  # one arm at one length, level and mode, warm-up included
    subject: str = ""
    threads: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast, for GPUs

    def __post_init__(self) -> None:
        where = f"study {self.name!r}"
        check_arms(self.name, self.arms)
        for name in ("vocabulary", "match_length", "tokens_per_step", "decode_tokens"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{where}: {name} must be at least 2, got {getattr(self, name)}")
        if self.repeats < LEAST_REPEATS:
            raise ConfigError(f"{where}: repeats must be at least {LEAST_REPEATS}, or there are no quartiles; got {self.repeats}")
        if self.cell_seconds <= 0:
            raise ConfigError(f"{where}: cell_seconds must be positive, got {self.cell_seconds}")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"{where}: threads must be at least 1, got {self.threads}")
        for name in ("lengths", "levels", "modes", "compiled"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{where}: {name} must name at least one, and none twice; got {values}")
        if min(self.lengths) < 2:
            raise ConfigError(f"{where}: lengths must be at least 2 tokens, got {min(self.lengths)}")
        names = [arm.name for arm in self.arms]
        if not self.subject:
            object.__setattr__(self, "subject", names[-1])
        if self.subject not in names:
            raise ConfigError(f"{where}: subject {self.subject!r} is no arm{did_you_mean(self.subject, names)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as YAML would hold them."""
        return plain(asdict(self))  # type: ignore[no-any-return]

    def batch(self, mode: str, tokens: int) -> int:
        return 1 if mode in DECODING else max(1, self.tokens_per_step // tokens)

    def groups(self) -> list[Group]:
        """What is timed, in order: each group is every arm at one length, level and mode, interleaved."""
        return [
            Group(level=level, mode=mode, tokens=tokens, batch=self.batch(mode, tokens), compiled=compiled)
            for tokens in sorted(self.lengths)
            for level in self.levels
            for mode in self.modes
            for compiled in self.compiled
            if not (mode in DECODING and (level != "model" or compiled))
        ]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cells that are timed together, one an arm: only then does the machine's drift cancel in their ratios."""

    level: str
    mode: str
    tokens: int
    batch: int
    compiled: bool

    @property
    def series(self) -> tuple[str, str, bool]:
        """What stays when the length changes."""
        return self.level, self.mode, self.compiled

    @property
    def label(self) -> str:
        return f"{self.level} {self.mode}{' compiled' if self.compiled else ''}, T {self.tokens}"


def open_throughput(study: str, overrides: list[str]) -> ThroughputConfig:
    """Find, parse and validate. Raises: ConfigError with the nearest valid key."""
    name, path = find_study(study)
    return ThroughputConfig.from_options(read_study(path, name=name, overrides=overrides), where=f"study {name!r}")
