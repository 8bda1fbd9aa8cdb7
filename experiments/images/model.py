"""Image classification as Lightning modules.

Objective, metrics and data, nothing about which blocks are inside.

Legend: B batch, C channels, H x W pixels, N classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from arch_lab.models import Kind
from arch_lab.training.module import LanguageModel
from experiments.images.data import (
    ImageBatch,
    ImageLoader,
    ImageOrder,
    ImageSplit,
    PreparedImages,
    scoring_batches,
)

SCORED = 250  # images a scoring batch: no metric depends on it


class ImageSums(Metric):
    """Sums over scored images; divided once, at the end, so that no batch size or rank count changes them.

    ``update(scores (B, N), labels (B,))``.
    """

    full_state_update = False
    sum: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("sum", "images"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @abstractmethod
    def of(self, scores: Tensor, labels: Tensor) -> Tensor:
        """(B,): one number per image, to be summed."""

    def update(self, scores: Tensor, labels: Tensor) -> None:
        self.sum += self.of(scores, labels).double().sum()
        self.images += len(labels)

    def compute(self) -> Tensor:
        return self.sum / self.images


class CrossEntropy(ImageSums):
    """Nats per image, without label smoothing. Lower is better."""

    higher_is_better = False

    def of(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(scores.float(), labels, reduction="none")


class TopAccuracy(ImageSums):
    """Share of the images whose class is among the ``k`` highest scores.

    All classes count where there are fewer than ``k``.

    Higher is better.
    """

    higher_is_better = True

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def of(self, scores: Tensor, labels: Tensor) -> Tensor:
        return (scores.topk(min(self.k, scores.shape[1]), dim=1).indices == labels[:, None]).any(dim=1)


def image_metrics() -> MetricCollection:
    """The three, by the names used in every table and file."""
    metrics: dict[str, Metric | MetricCollection] = {
        "cross_entropy": CrossEntropy(),
        "top1_accuracy": TopAccuracy(1),
        "top5_accuracy": TopAccuracy(5),
    }
    return MetricCollection(
        metrics, compute_groups=False
    )  # groups share state by reference, which resetting would confuse


class ImageModel(LanguageModel):
    """Classification training of an image architecture (arguments: see LanguageModel).

    ``vocabulary`` counts the classes.

    ``label_smoothing``: the share of a label's weight that all classes share while training; no metric knows
    it.
    """

    kind: ClassVar[Kind] = "image_classifier"

    def __init__(self, label_smoothing: float = 0.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.label_smoothing = label_smoothing

    def setup(self, stage: str) -> None:
        self.tune_metrics, self.final_metrics = (
            image_metrics().to(self.device),
            image_metrics().to(self.device),
        )

    def training_step(self, batch: ImageBatch, batch_index: int) -> Tensor:  # type: ignore[override]
        scores = self.model(batch.images).float()
        # equal shards: the mean over this batch is the mean over the global batch
        return F.cross_entropy(scores, batch.labels, label_smoothing=self.label_smoothing)

    def predict_step(self, batch: ImageBatch, batch_index: int) -> Tensor:  # type: ignore[override]
        """Class scores (B, N)."""
        scores: Tensor = self.model(batch.images)
        return scores

    def _score(self, batch: ImageBatch, metrics: Any) -> None:  # type: ignore[override]
        metrics.update(self.model(batch.images), batch.labels)


class ScoringLoader:
    """Every image of a split once; a fresh pass at each iteration."""

    def __init__(self, split: ImageSplit, data: PreparedImages) -> None:
        self.split, self.data = split, data

    def __len__(self) -> int:
        return -(-len(self.split) // SCORED)

    def __iter__(self) -> Iterator[ImageBatch]:
        return scoring_batches(self.split, self.data, batch=SCORED)


class ImageDataModule(pl.LightningDataModule):
    """Images that are already decoded; ``val`` is the tuning split, ``test`` the reported one."""

    def __init__(self, data: PreparedImages, *, batch: int, seed: int, steps: int) -> None:
        super().__init__()
        self.data, self.batch, self.seed, self.steps = data, batch, seed, steps

    def train_dataloader(self) -> ImageLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        order = ImageOrder(self.data, batch=self.batch, seed=self.seed, augmentation=self.data.augmentation)
        return ImageLoader(order, steps=self.steps, rank=rank, world=world)

    def val_dataloader(self) -> ScoringLoader:
        return ScoringLoader(self.data.tune, self.data)

    def test_dataloader(self) -> ScoringLoader:
        return ScoringLoader(self.data.test, self.data)

    def predict_dataloader(self) -> ScoringLoader:
        return self.test_dataloader()
