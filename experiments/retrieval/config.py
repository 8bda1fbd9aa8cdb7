"""What a study of retrieval says, strict to the last key."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

from arch_lab.fields import BatchSize, Name, PathText
from arch_lab.study.task_study import TaskStudyConfig
from arch_lab.training.optimizer import Beta2Option, DecayOption, FinalOption, OptimizerConfig, WarmupOption
from blocks.config import Bounds, Config, Doc, Length, Options, Unique
from blocks.errors import ConfigError, did_you_mean
from experiments.retrieval.readers import RETRIEVAL_SETS

CutTokens = Annotated[int, Bounds(minimum=2, maximum=2**20)]  # the separator and a token
ENCODER = ("pooler", "pooler_options", "projection")  # options of training that say what the encoder is


@dataclass(frozen=True, kw_only=True)
class RetrievalTraining(OptimizerConfig):
    """How every arm is fine-tuned, and what every method is shown of a text.

    ``query_tokens`` and ``document_tokens``: where texts are cut, the separator before them included, for all
    alike, BM25 too. ``projection``: width of a bias-free map behind the pooler, None: the pooled states
    themselves. ``negatives``: documents beside the positive for each query, drawn anew every epoch from its
    own candidates where the set has them, else from the ``negative_pool`` irrelevant documents that BM25
    ranks highest (``hard``) or from all of them (``random``).
    """

    epochs: Annotated[
        int, Bounds(minimum=1, maximum=10_000), Doc("Passes over the training pairs of a set.")
    ] = 3
    batch_size: Annotated[BatchSize, Doc("Pairs of a query and a relevant document per step.")] = 16
    query_tokens: Annotated[CutTokens, Doc("Tokens after which a query is cut, for every method.")] = 32
    document_tokens: Annotated[CutTokens, Doc("Tokens after which a document is cut, for every method.")] = 96
    pooler: Annotated[
        str, Length(1, 1000), Doc("Block that reduces a text to one vector (arch-lab blocks lists them).")
    ] = "mean"
    pooler_options: Annotated[Options, Doc("Options of the pooler.")] = field(default_factory=dict)
    projection: Annotated[
        int | None,
        Bounds(minimum=1, maximum=2**17),
        Doc("Width of a linear map after the pooler; null: none."),
    ] = None
    loss: Annotated[
        Literal["nce", "m2"],
        Doc("Contrastive loss within the batch, or M2's loss with negatives drawn for each query."),
    ] = "nce"
    temperature: Annotated[float, Bounds(above=0, maximum=1e6), Doc("Divisor of the similarities.")] = 0.05
    negatives: Annotated[
        int,
        Bounds(minimum=0, maximum=2**20),
        Doc("Negative documents for each query, in addition to the relevant one."),
    ] = 0
    negatives_from: Annotated[
        Literal["hard", "random"],
        Doc("Draw negatives from the documents that BM25 ranks highest, or from all."),
    ] = "hard"
    negative_pool: Annotated[
        int, Bounds(minimum=1, maximum=2**20), Doc("Irrelevant documents to draw hard negatives from.")
    ] = 50
    weight_decay: DecayOption = 0.01
    beta2: Beta2Option = 0.98
    warmup_fraction: WarmupOption = 0.1
    final_fraction: FinalOption = 0.0

    def __post_init__(self) -> None:
        if self.loss == "m2" and not self.negatives:
            raise ConfigError(
                "training.loss: m2 needs negatives for each query; set training.negatives to 1 or more"
            )
        if self.loss == "nce" and self.batch_size == 1 and not self.negatives:
            raise ConfigError(
                "training.loss: nce has nothing to contrast in a batch of one; raise training.batch_size or "
                "training.negatives"
            )


@dataclass(frozen=True, kw_only=True)
class BM25(Config):
    """Lucene's formula. Its constants are not tuned: no grid of them would be fair against learning rates."""

    k1: Annotated[float, Bounds(minimum=0, maximum=1e6), Doc("How fast repeated words stop counting.")] = 1.2
    b: Annotated[float, Bounds(minimum=0, maximum=1), Doc("How much long documents are penalised.")] = 0.75


@dataclass(frozen=True, kw_only=True)
class RetrievalStudyConfig(TaskStudyConfig):
    """Keys of a study of retrieval.

    ``pretrained``: folder of a finished study of masked tokens; ``arms``: those of its arms that take part,
    None: all. ``for_task``: set -> options of ``training`` that differ there, for every arm alike.
    ``zero_shot``: also score every arm as it comes from pretraining. ``complete``: the sets must hold as much
    as was published.
    """

    CHOOSES = (
        *TaskStudyConfig.CHOOSES,
        "pretrained",
        "zero_shot",
        "complete",
    )  # weights and files are known by their bytes

    pretrained: Annotated[PathText, Doc("Folder of a finished study of masked tokens.")]
    arms: Annotated[
        list[Name] | None, Length(1, 100), Unique(), Doc("Arms of that study to compare; null: all.")
    ] = None
    training: Annotated[RetrievalTraining, Doc("How every arm is fine-tuned.")] = field(
        default_factory=RetrievalTraining
    )
    for_task: Annotated[
        Options,
        Doc("Options of training that differ for single sets, such as {nfcorpus: {epochs: 1}}."),
    ] = field(default_factory=dict)
    bm25: Annotated[BM25, Doc("Constants of the BM25 baseline.")] = field(default_factory=BM25)
    zero_shot: Annotated[bool, Doc("Also score every arm without fine-tuning.")] = True
    complete: Annotated[bool, Doc("Require the sets to have their published sizes.")] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (*self.tasks, *self.for_task):
            if name not in RETRIEVAL_SETS:
                raise ConfigError(
                    f"study {self.name!r}: unknown retrieval set {name!r}{did_you_mean(name, RETRIEVAL_SETS)}"
                )
        for name in (*self.tasks, *self.for_task):
            self.training_of(name)

    def training_of(self, task: str) -> RetrievalTraining:
        """Raises: ConfigError for options of ``for_task`` that are none, or that make no sense."""
        changed = self.for_task.get(task, {})
        if not isinstance(changed, dict):
            raise ConfigError(f"for_task.{task}: expected options of training, got {changed!r}")
        fixed = next((option for option in ENCODER if option in changed), None)
        if fixed is not None:
            raise ConfigError(
                f"for_task.{task}: {fixed} belongs to the encoder, which all sets share; set training.{fixed}"
            )
        return RetrievalTraining.from_options({**asdict(self.training), **changed}, where=f"for_task.{task}")
