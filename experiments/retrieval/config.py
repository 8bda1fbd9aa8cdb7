"""What a study of retrieval says, strict to the last key."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from arch_lab.data.retrieval import RETRIEVAL_SETS
from arch_lab.tasks.contract import TaskStudyConfig
from blocks.contract import BlockConfig
from blocks.errors import ConfigError, did_you_mean

ENCODER = ("pooler", "pooler_options", "projection")  # options of training that say what the encoder is


@dataclass(frozen=True, kw_only=True)
class RetrievalTraining(BlockConfig):
    """How every arm is fine-tuned, and what every method is shown of a text.

    ``query_tokens`` and ``document_tokens``: where texts are cut, the separator before them included, for all alike, BM25 too.
    ``projection``: width of a bias-free map behind the pooler, None: the pooled states themselves.
    ``negatives``: documents beside the positive for each query, drawn anew every epoch from its own candidates where the set has
    them, else from the ``negative_pool`` irrelevant documents that BM25 ranks highest (``hard``) or from all of them (``random``).
    """

    epochs: int = 3
    batch_size: int = 16  # pairs of a query and a relevant document a step
    query_tokens: int = 32
    document_tokens: int = 96
    pooler: str = "mean"
    pooler_options: dict[str, Any] = field(default_factory=dict)
    projection: int | None = None
    loss: Literal["nce", "m2"] = "nce"
    temperature: float = 0.05
    negatives: int = 0
    negatives_from: Literal["hard", "random"] = "hard"
    negative_pool: int = 50
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    warmup_fraction: float = 0.1
    final_fraction: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "negative_pool", *(["projection"] if self.projection is not None else [])):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("query_tokens", "document_tokens"):
            if getattr(self, name) < 2:
                raise ConfigError(f"training.{name} must be at least 2 (the separator and a token), got {getattr(self, name)}")
        if self.negatives < 0 or self.weight_decay < 0:
            raise ConfigError("training: negatives and weight_decay must not be negative")
        if not 0 <= self.warmup_fraction < 1 or not 0 <= self.final_fraction <= 1:
            raise ConfigError("training: warmup_fraction must lie in [0, 1) and final_fraction in [0, 1]")
        if min(self.temperature, self.clip_norm) <= 0:
            raise ConfigError("training: temperature and clip_norm must be positive")
        if self.loss == "m2" and not self.negatives:
            raise ConfigError("training.loss: m2 compares a query with negatives of its own; set training.negatives to 1 or more")
        if self.loss == "nce" and self.batch_size == 1 and not self.negatives:
            raise ConfigError(
                "training.loss: nce has nothing to contrast in a batch of one; raise training.batch_size or training.negatives"
            )


@dataclass(frozen=True, kw_only=True)
class BM25(BlockConfig):
    """Lucene's formula; its customary constants are not tuned, for want of a fair grid against learning rates."""

    k1: float = 1.2
    b: float = 0.75

    def __post_init__(self) -> None:
        if not self.k1 >= 0 or not 0 <= self.b <= 1:
            raise ConfigError(f"bm25: k1 must not be negative and b must lie in [0, 1], got k1 {self.k1:g}, b {self.b:g}")


@dataclass(frozen=True, kw_only=True)
class RetrievalStudyConfig(TaskStudyConfig):
    """``pretrained``: folder of a finished study of masked tokens; ``arms``: those of its arms that take part, None: all.

    ``for_task``: set -> options of ``training`` that differ there, for every arm alike. ``zero_shot``: also score every arm as it
    comes from pretraining. ``complete``: the sets must hold as much as was published.
    """

    CHOOSES = (*TaskStudyConfig.CHOOSES, "pretrained", "zero_shot", "complete")  # weights and files are known by their bytes

    pretrained: str
    arms: list[str] | None = None
    training: RetrievalTraining = field(default_factory=RetrievalTraining)
    for_task: dict[str, Any] = field(default_factory=dict)
    bm25: BM25 = field(default_factory=BM25)
    zero_shot: bool = True
    complete: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (*self.tasks, *self.for_task):
            if name not in RETRIEVAL_SETS:
                raise ConfigError(f"study {self.name!r}: unknown retrieval set {name!r}{did_you_mean(name, RETRIEVAL_SETS)}")
        if self.arms is not None and (not self.arms or len(set(self.arms)) != len(self.arms)):
            raise ConfigError(f"study {self.name!r}: arms must name at least one, and none twice; got {self.arms}")
        for name in (*self.tasks, *self.for_task):
            self.training_of(name)

    def training_of(self, task: str) -> RetrievalTraining:
        """Raises: ConfigError for options of ``for_task`` that are none, or that make no sense."""
        changed = self.for_task.get(task, {})
        if not isinstance(changed, dict):
            raise ConfigError(f"for_task.{task}: expected options of training, got {changed!r}")
        fixed = next((option for option in ENCODER if option in changed), None)
        if fixed is not None:
            raise ConfigError(f"for_task.{task}: {fixed} makes the encoder, which is one for all sets; set training.{fixed}")
        return RetrievalTraining.from_options({**asdict(self.training), **changed}, where=f"for_task.{task}")
