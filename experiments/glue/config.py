"""Keys of a GLUE study: where data and pretrained bodies are, and one fine-tuning for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from arch_lab.fields import BatchSize, Count, HeldOutFraction, LearningRate, Name, PathText
from arch_lab.study.task_study import TaskStudyConfig
from arch_lab.training.optimizer import Beta2Option, DecayOption, FinalOption, OptimizerConfig, WarmupOption
from blocks.config import Bounds, Config, Doc, Length, Options, Unique
from blocks.errors import ConfigError, did_you_mean
from experiments.glue.hub import HUB_NAME
from experiments.glue.reader import GLUE_TASKS, glue_task

FROM_MNLI = ("rte", "mrpc", "stsb")  # arXiv 2104.07705, and the released M2-BERT recipe after it
NAMES = tuple(GLUE_TASKS)
Epochs = Annotated[int, Bounds(minimum=1, maximum=10_000)]
GlueTask = Annotated[str, Length(1, 100)]  # its name is checked against the table of tasks


@dataclass(frozen=True, kw_only=True)
class GlueData(Config):
    """``folder``: under the data root, the layout of the benchmark (CoLA/train.tsv, .tsv.gz or .parquet, …).

    ``hub``: the dataset's name, or a local copy of it under the data root. ``incomplete``: tasks that are
    scored although their files do not hold the official number of rows; their facts say so.
    """

    source: Annotated[Literal["files", "hub"], Doc("Your files, or the dataset on Hugging Face.")] = "files"
    folder: Annotated[PathText, Doc("Folder of the benchmark's files, under the data root.")] = "glue"
    hub: Annotated[PathText, Doc("Name of the dataset, or path of a local copy under the data root.")] = (
        HUB_NAME
    )
    revision: Annotated[str | None, Length(1, 1000), Doc("Version of the dataset.")] = None
    incomplete: Annotated[
        list[GlueTask], Doc("Tasks to score although their files do not have the official number of rows.")
    ] = field(default_factory=list)
    tuning_fraction: Annotated[
        HeldOutFraction, Doc("Share of the training rows held out to choose learning rates.")
    ] = 0.1
    tuning_rows: Annotated[int, Bounds(minimum=2), Doc("Largest number of held-out rows.")] = 1000

    def __post_init__(self) -> None:
        for name in self.incomplete:
            glue_task(name)


@dataclass(frozen=True, kw_only=True)
class Finetuning(OptimizerConfig):
    """One recipe for every arm and, but for ``task_epochs`` and ``task_rows``, every task.

    ``max_rows``: training rows used of a task, chosen by a hash of their text (None: all); ``max_tokens``: a
    longer row is cut, the longer of its sentences first. ``pairs``: "joint" reads both sentences in one row,
    "separate" each in a row of its own and compares their vectors (u, v, |u - v|, u·v), the form of GLUE's
    own baselines (arXiv 1804.07461 §4.1, 1705.02364).
    """

    epochs: Annotated[Epochs, Doc("Passes over the training rows of a task.")] = 3
    task_epochs: Annotated[dict[str, Epochs], Doc("Epochs of single tasks, such as {rte: 10}.")] = field(
        default_factory=dict
    )
    max_rows: Annotated[
        int | None, Bounds(minimum=1), Doc("Training rows used of a task, chosen by a hash; null: all.")
    ] = None
    task_rows: Annotated[
        dict[str, Count], Doc("Training rows used of single tasks, such as {sst2: 8000}.")
    ] = field(default_factory=dict)
    max_tokens: Annotated[int, Bounds(minimum=8, maximum=2**20), Doc("Tokens after which a row is cut.")] = (
        128
    )
    batch_size: Annotated[BatchSize, Doc("Rows, or pairs of them, per step.")] = 32
    weight_decay: DecayOption = 0.01
    beta2: Beta2Option = 0.98
    warmup_fraction: WarmupOption = 0.06
    final_fraction: FinalOption = 0.0
    pooler: Annotated[
        str, Length(1, 1000), Doc("Block that reduces a row to one vector (arch-lab blocks lists them).")
    ] = "mean"
    pooler_options: Annotated[Options, Doc("Options of the pooler.")] = field(default_factory=dict)
    pairs: Annotated[
        Literal["joint", "separate"],
        Doc("Read both sentences in one row, or each in a separate row and compare their vectors."),
    ] = "joint"
    hidden: Annotated[
        int | None,
        Bounds(minimum=1, maximum=2**17),
        Doc("Width of the head's hidden layer; null: one linear map."),
    ] = None
    dropout: Annotated[float, Bounds(minimum=0, below=1), Doc("Dropout before the head.")] = 0.1

    def __post_init__(self) -> None:
        for name in ("task_epochs", "task_rows"):
            for task in getattr(self, name):
                if task not in NAMES:
                    raise ConfigError(f"finetuning.{name}: unknown task {task!r}{did_you_mean(task, NAMES)}")

    def epochs_of(self, task: str) -> int:
        return int(self.task_epochs.get(task, self.epochs))

    def rows_of(self, task: str) -> int | None:
        rows = self.task_rows.get(task, self.max_rows)
        return None if rows is None else int(rows)


@dataclass(frozen=True, kw_only=True)
class FromMnli(Config):
    """Tasks whose bodies are first fine-tuned on MNLI, without its head, at a rate fixed here.

    Once per arm and seed. ``source`` "mnli_subset" is another, small sample: a score that started from it is
    not comparable with a published one.
    """

    learning_rate: Annotated[LearningRate, Doc("Rate of the fine-tuning on MNLI, the same for every arm.")]
    source: Annotated[Literal["mnli", "mnli_subset"], Doc("MNLI, or a small sample of it.")] = "mnli"
    tasks: Annotated[list[GlueTask], Doc("Tasks that start from the body fine-tuned on MNLI.")] = field(
        default_factory=lambda: list(FROM_MNLI)
    )

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in FROM_MNLI:
                raise ConfigError(
                    f"from_mnli.tasks: {task!r} is not one of "
                    f"{', '.join(FROM_MNLI)}{did_you_mean(task, FROM_MNLI)}"
                )


@dataclass(frozen=True, kw_only=True)
class GlueStudyConfig(TaskStudyConfig):
    """Keys of a GLUE study.

    ``pretrained``: the folder of a finished masked study; ``arms``: those of its arms to compare (empty:
    all). ``scratch``: each arm a second time with fresh weights, so that what pretraining brought is
    measured. ``baselines``: majority class and TF-IDF with logistic regression. ``submission``: predict the
    test sets too, for GLUE's server.
    """

    # the weights behind ``pretrained`` are in the fingerprint, wherever their folder lies
    CHOOSES = (*TaskStudyConfig.CHOOSES, "arms", "scratch", "baselines", "pretrained")

    pretrained: Annotated[PathText, Doc("Folder of a finished study of masked tokens.")]
    arms: Annotated[
        list[Name], Length(0, 100), Unique(), Doc("Arms of that study to compare; empty: all.")
    ] = field(default_factory=list)
    data: Annotated[GlueData, Doc("Where the benchmark is.")] = field(default_factory=GlueData)
    finetuning: Annotated[Finetuning, Doc("How every arm is fine-tuned.")] = field(default_factory=Finetuning)
    from_mnli: Annotated[FromMnli | None, Doc("Fine-tune on MNLI first.")] = None
    scratch: Annotated[bool, Doc("Fit each arm a second time with fresh weights.")] = False
    baselines: Annotated[bool, Doc("Score the majority class, and TF-IDF with logistic regression.")] = True
    submission: Annotated[bool, Doc("Predict the test sets too, for GLUE's server.")] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.tasks:
            glue_task(task)
