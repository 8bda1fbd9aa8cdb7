"""One dense layer and a ReLU under four objectives.

Triplets, and the peers that see the same rows for as many steps.

Legend: B rows or triplets of a step, F features, E embedding width, C classes.
The embedding is the layer's output in each case; what an objective needs beyond it (a decoder, a readout) is
thrown away afterwards.
Source of the layer: arXiv 2001.09988 and 1910.01463 (blocks.triplet.head). Adam with its usual betas, as
published; no weight decay.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from arch_lab.training.optimizer import CONSTANT_ADAM, optimizer_and_schedule
from blocks.linear import Linear, LinearConfig
from blocks.triplet.head import TripletHead, TripletHeadConfig


class Embedder(pl.LightningModule):
    """``embed(x (B, F)) -> (B, E)``; trained by what ``loss`` makes of a batch."""

    def __init__(self, features: int, width: int, learning_rate: float, margin: float = 1.0) -> None:
        super().__init__()
        self.head = TripletHead(TripletHeadConfig(width=features, embedding_width=width, margin=margin))
        self.learning_rate = learning_rate

    @abstractmethod
    def loss(self, *batch: Tensor) -> Tensor: ...

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        return self.loss(*batch)

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(
            self, CONSTANT_ADAM, learning_rate=self.learning_rate, steps=1, fused=False
        )

    @torch.no_grad()
    def embed(self, x: Tensor) -> Tensor:
        """Embeddings on the CPU, for a network on any device."""
        y: Tensor = self.head(x.to(self.device)).cpu()
        return y


class TripletNetwork(Embedder):
    """A batch is anchors, positives and negatives, each (B, F)."""

    def loss(self, *batch: Tensor) -> Tensor:
        loss: Tensor = self.head.loss(*batch)
        return loss


class Autoencoder(Embedder):
    """Rows (B, F), reconstructed through one linear map; mean squared error.

    The labels are not looked at.
    """

    def __init__(self, features: int, width: int, learning_rate: float) -> None:
        super().__init__(features, width, learning_rate)
        self.decoder = Linear(LinearConfig(in_features=width, out_features=features))

    def loss(self, *batch: Tensor) -> Tensor:
        x, _ = batch
        return F.mse_loss(self.decoder(self.head(x)), x)


class Regressor(Embedder):
    """Rows (B, F) and their labels (B,): a linear readout of the layer, mean squared error."""

    def __init__(self, features: int, width: int, learning_rate: float) -> None:
        super().__init__(features, width, learning_rate)
        self.readout = Linear(LinearConfig(in_features=width, out_features=1))

    def loss(self, *batch: Tensor) -> Tensor:
        x, y = batch
        return F.mse_loss(self.readout(self.head(x)).squeeze(-1), y)


class Classifier(Embedder):
    """Rows (B, F) and their classes (B,): softmax over C classes, cross-entropy."""

    def __init__(self, features: int, width: int, learning_rate: float, classes: int) -> None:
        super().__init__(features, width, learning_rate)
        self.readout = Linear(LinearConfig(in_features=width, out_features=classes))

    def loss(self, *batch: Tensor) -> Tensor:
        x, classes = batch
        return F.cross_entropy(self.readout(self.head(x)), classes)
