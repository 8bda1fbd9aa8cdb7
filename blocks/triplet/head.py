"""The embedding a triplet loss is put on. Legend: D width, E embedding_width.

Source: arXiv 2001.09988 and 1910.01463: one dense layer and a ReLU, squared Euclidean hinge, output not
normalised
(260 -> 100 with margin 5; 600 -> 600 with margin 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.heads.base import ReadoutConfig, TaskHead
from blocks.heads.entity_library import unit
from blocks.linear import Linear, LinearConfig
from blocks.losses import triplet_loss
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class TripletHeadConfig(ReadoutConfig):
    embedding_width: int
    dropout: float = 0.0
    relu: bool = True
    normalise: bool = False  # to unit length, for cosine scores; the published networks do not
    distance: Literal["squared", "euclidean", "cosine"] = "squared"
    margin: float = 5.0
    soft: bool = False  # soft margin instead of the hinge

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least_one("embedding_width")
        if self.hidden is not None or self.dropout:
            raise ConfigError(
                "TripletHeadConfig: hidden and dropout are not options of this head: it is one dense layer"
            )
        if not 0 < self.margin < float("inf"):
            raise ConfigError(f"TripletHeadConfig: margin must be a positive number, got {self.margin}")


@register("triplet", kind="head", config=TripletHeadConfig, source="arXiv:2001.09988")
class TripletHead(TaskHead):
    """relu(W x + b), an embedding; loss: that of triplets of vectors.

    Shape: (..., D) -> (..., E). Cost: D·E + E weights, 2·D·E FLOPs per vector; elementwise E bias, E ReLU,
    3·E to normalise.
    Raises: ConfigError for a size below 1, a margin that is not positive, a hidden layer or dropout.
    """

    config: TripletHeadConfig

    def __init__(self, config: TripletHeadConfig) -> None:
        super().__init__(config)
        self.dense = Linear(LinearConfig(in_features=config.width, out_features=config.embedding_width))

    def reset_parameters(self) -> None:
        self.dense.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dense(x)
        if self.config.relu:
            y = torch.relu(y)
        return unit(y) if self.config.normalise else y

    def loss(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Mean over triplets of vectors (N, D) that are not embedded yet."""
        config = self.config
        a, p, n = (self(x) for x in (anchor, positive, negative))
        return triplet_loss(
            a, p, n, margin="soft" if config.soft else config.margin, distance=config.distance
        )

    def predict(self, x: Tensor) -> Tensor:
        """The embedding itself."""
        return self(x)  # type: ignore[no-any-return]

    def cost(self, tokens: int) -> Cost:
        config = self.config
        operations = (1 if config.relu else 0) + (3 if config.normalise else 0)
        return self.dense.cost(tokens) + Cost(elementwise=tokens * operations * config.embedding_width)
