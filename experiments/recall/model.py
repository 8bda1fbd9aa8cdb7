"""Recall as Lightning modules: the loss and the scores where a value is asked for.

Legend: B rows, T tokens, V vocabulary, A answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from arch_lab.stored import Json
from arch_lab.training.module import LanguageModel
from arch_lab.training.scoring import at_least_float32

IGNORED = -100  # the label of a place where nothing is asked, as cross_entropy knows it


class RecallBatch(NamedTuple):
    """``tokens`` and ``labels`` (B, T) int64; labels are IGNORED where nothing is asked."""

    tokens: Tensor
    labels: Tensor


class RecallModel(LanguageModel):
    """Next-token training where a value is asked for (arguments: see LanguageModel)."""

    def setup(self, stage: str) -> None:
        self.tune_metrics, self.final_metrics = (recall_metrics().to(self.device) for _ in range(2))

    def answers(self, batch: RecallBatch) -> tuple[Tensor, Tensor]:
        """Logits (A, V) and the values asked for (A,), in the order of the rows."""
        is_target = batch.labels != IGNORED
        return at_least_float32(self.model(batch.tokens)[is_target]), batch.labels[is_target]

    def training_step(self, batch: RecallBatch, batch_index: int) -> Tensor:  # type: ignore[override]
        return F.cross_entropy(*self.answers(batch))

    def predict_step(self, batch: RecallBatch, batch_index: int) -> Tensor:  # type: ignore[override]
        """The tokens named (A,)."""
        return self.answers(batch)[0].argmax(dim=-1)

    def _score(self, batch: RecallBatch, metrics: Any) -> None:  # type: ignore[override]
        metrics.update(*self.answers(batch))


class AnswerAccuracy(MeanMetric):
    """Share of the values that were named: ``update(logits (A, V), values (A,))``. Higher is better."""

    def update(self, logits: Tensor, values: Tensor) -> None:  # type: ignore[override]
        super().update((logits.argmax(dim=-1) == values).double())


class AnswerNats(MeanMetric):
    """Nats to name a value: ``update(logits (A, V), values (A,))``. Lower is better."""

    def update(self, logits: Tensor, values: Tensor) -> None:  # type: ignore[override]
        super().update(F.cross_entropy(logits, values, reduction="none").double())


def recall_metrics() -> MetricCollection:
    """Means over answers, by the names used in every table and file."""
    return MetricCollection({"accuracy": AnswerAccuracy(), "nats": AnswerNats()}, compute_groups=False)


class RowLoader:
    """``draw(step)``: tokens (B, T) and labels (B, T) of each step in turn.

    A resumed run goes on behind its last step.
    """

    def __init__(self, draw: Callable[[int], tuple[np.ndarray, np.ndarray]], steps: int) -> None:
        self.draw, self.steps = draw, steps
        self.step = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[RecallBatch]:
        first = self.step if self.step < self.steps else 0
        for step in range(first, self.steps):
            tokens, labels = self.draw(step)
            self.step = step + 1
            yield RecallBatch(torch.from_numpy(tokens), torch.from_numpy(labels))

    def state_dict(self) -> Json:
        return {"step": self.step}

    def load_state_dict(self, state: Json) -> None:
        self.step = state["step"]


class RecallDataModule(pl.LightningDataModule):
    """Rows drawn on the fly; ``val`` is the tuning split, ``test`` the reported one."""

    def __init__(self, *, train: RowLoader, tune: RowLoader, held_out: RowLoader) -> None:
        super().__init__()
        self.train, self.tune, self.held_out = train, tune, held_out

    def train_dataloader(self) -> RowLoader:
        return self.train

    def val_dataloader(self) -> RowLoader:
        return self.tune

    def test_dataloader(self) -> RowLoader:
        return self.held_out
