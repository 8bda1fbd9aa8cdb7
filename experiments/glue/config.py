"""What a GLUE study says: where the data and the pretrained bodies are, and one fine-tuning for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from arch_lab.data.glue import GLUE_TASKS, glue_task
from arch_lab.data.glue_hub import HUB_NAME
from arch_lab.tasks import TaskStudyConfig
from blocks.contract import BlockConfig
from blocks.errors import ConfigError, did_you_mean

FROM_MNLI = ("rte", "mrpc", "stsb")  # arXiv 2104.07705, and the released M2-BERT recipe after it
NAMES = tuple(GLUE_TASKS)


@dataclass(frozen=True, kw_only=True)
class GlueData(BlockConfig):
    """``folder``: under the data root, the layout of the benchmark (CoLA/train.tsv, .tsv.gz or .parquet, …).

    ``hub``: the dataset's name, or a local copy of it under the data root. ``incomplete``: tasks that are scored although their
    files do not hold the official number of rows; their facts say so.
    """

    source: Literal["files", "hub"] = "files"
    folder: str = "glue"
    hub: str = HUB_NAME
    revision: str | None = None
    incomplete: list[str] = field(default_factory=list)
    tuning_fraction: float = 0.1
    tuning_rows: int = 1000  # at most

    def __post_init__(self) -> None:
        for name in self.incomplete:
            glue_task(name)
        if not 0 < self.tuning_fraction < 0.5 or self.tuning_rows < 2:
            raise ConfigError("glue data: tuning_fraction must lie between 0 and 0.5 and tuning_rows be at least 2")


@dataclass(frozen=True, kw_only=True)
class Finetuning(BlockConfig):
    """One recipe for every arm and, but for ``task_epochs`` and ``task_rows``, every task.

    ``max_rows``: training rows used of a task, chosen by a hash of their text (None: all); ``max_tokens``: a longer row is cut, the
    longer of its sentences first. ``pairs``: "joint" reads both sentences in one row, "separate" each in a row of its own and
    compares their vectors (u, v, |u - v|, u·v), the form of GLUE's own baselines (arXiv 1804.07461 §4.1, 1705.02364).
    """

    epochs: int = 3
    task_epochs: dict[str, Any] = field(default_factory=dict)
    max_rows: int | None = None
    task_rows: dict[str, Any] = field(default_factory=dict)
    max_tokens: int = 128
    batch_size: int = 32  # rows, or pairs
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.98
    warmup_fraction: float = 0.06
    clip_norm: float = 1.0
    pooler: str = "mean"
    pooler_options: dict[str, Any] = field(default_factory=dict)
    pairs: Literal["joint", "separate"] = "joint"
    hidden: int | None = None  # width of the head's layer; None: one linear map
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_tokens", *(["max_rows"] if self.max_rows is not None else [])):
            _at_least_one(f"finetuning.{name}", getattr(self, name))
        for name in ("task_epochs", "task_rows"):
            for task, value in getattr(self, name).items():
                if task not in NAMES:
                    raise ConfigError(f"finetuning.{name}: unknown task {task!r}{did_you_mean(task, NAMES)}")
                _at_least_one(f"finetuning.{name}.{task}", value)
        if self.max_tokens < 8:
            raise ConfigError(f"finetuning.max_tokens: must be at least 8, got {self.max_tokens}")
        if not 0 <= self.warmup_fraction < 1 or self.weight_decay < 0 or self.clip_norm <= 0:
            raise ConfigError("finetuning: warmup_fraction must lie in [0, 1), weight_decay not be negative and clip_norm be positive")

    def epochs_of(self, task: str) -> int:
        return int(self.task_epochs.get(task, self.epochs))

    def rows_of(self, task: str) -> int | None:
        found = self.task_rows.get(task, self.max_rows)
        return None if found is None else int(found)


@dataclass(frozen=True, kw_only=True)
class FromMnli(BlockConfig):
    """Tasks whose bodies are first fine-tuned on MNLI, once an arm and seed, at a rate fixed here; the head is not handed over.

    ``source`` "mnli_subset" is another, small sample: a score that started from it is not comparable with a published one.
    """

    learning_rate: float
    source: Literal["mnli", "mnli_subset"] = "mnli"
    tasks: list[str] = field(default_factory=lambda: list(FROM_MNLI))

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ConfigError(f"from_mnli.learning_rate must be positive, got {self.learning_rate:g}")
        for task in self.tasks:
            if task not in FROM_MNLI:
                raise ConfigError(f"from_mnli.tasks: {task!r} is not one of {', '.join(FROM_MNLI)}{did_you_mean(task, FROM_MNLI)}")


@dataclass(frozen=True, kw_only=True)
class GlueStudyConfig(TaskStudyConfig):
    """``pretrained``: the folder of a finished masked study; ``arms``: those of its arms to compare (empty: all).

    ``scratch``: each arm a second time with fresh weights, so that what pretraining brought is measured. ``baselines``: majority class
    and TF-IDF with logistic regression. ``submission``: predict the test sets too, for GLUE's server.
    """

    # the weights behind ``pretrained`` are in the fingerprint, wherever their folder lies
    CHOOSES = (*TaskStudyConfig.CHOOSES, "arms", "scratch", "baselines", "pretrained")

    pretrained: str
    arms: list[str] = field(default_factory=list)
    data: GlueData = field(default_factory=GlueData)
    finetuning: Finetuning = field(default_factory=Finetuning)
    from_mnli: FromMnli | None = None
    scratch: bool = False
    baselines: bool = True
    submission: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.tasks:
            glue_task(task)
        if len(set(self.arms)) != len(self.arms):
            raise ConfigError(f"study {self.name!r}: arms must not repeat")


def _at_least_one(where: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{where}: must be a whole number of at least 1, got {value!r}")
