"""What the heads of a task share: how they are asked, the map they end in, and the check of their labels.

Legend: D width, F hidden, C outputs.
A head reads vectors (..., D): pooled ones (B, D), or every token (B, T, D), in which case it mixes nothing
between positions.
Its loss is asked for the vectors and not for its outputs: what a head confines to a range has lost the digits
the loss needs.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.contract import Block, BlockConfig
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.groups import HEAD, ParameterGroup
from blocks.linear import Linear, LinearConfig


class TaskHead(Block):
    """``forward(x) -> y``, x (..., D), y (..., C).

    ``cost(tokens)`` is of that many vectors: 1 for a pooled sequence.
    """

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        return {"": HEAD}

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """The prediction that the task scores: a class, a number or a probability."""


@dataclass(frozen=True, kw_only=True)
class ReadoutConfig(BlockConfig):
    """Options of every head that ends in ``Readout``.

    ``hidden`` None is one linear map, a number per layer of that width.
    """

    width: int
    hidden: int | None = None
    dropout: float = 0.1  # BERT's; Gemma Encoder has about as much

    def __post_init__(self) -> None:
        self.at_least_one("width", *(["hidden"] if self.hidden is not None else []))
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"{type(self).__name__}: dropout must be at least 0 and below 1, got {self.dropout}"
            )

    def at_least_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{type(self).__name__}: {name} must be at least 1, got {getattr(self, name)}"
                )


class Readout(nn.Module):
    """Dropout, then W x + b; with a hidden layer dropout, W₁, exact GELU, dropout, W₂.

    Cost: D·C + C weights, 2·D·C FLOPs per vector; with a hidden layer D·F + F + F·C + C and 2·F·(D + C),
    elementwise F + C for biases and F for GELU.
    """

    def __init__(self, config: ReadoutConfig, outputs: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = (
            None
            if config.hidden is None
            else Linear(LinearConfig(in_features=config.width, out_features=config.hidden))
        )
        self.output = Linear(LinearConfig(in_features=config.hidden or config.width, out_features=outputs))

    def reset_parameters(self) -> None:
        for linear in (self.hidden, self.output):
            if linear is not None:
                linear.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(x)
        if self.hidden is not None:
            x = self.dropout(F.gelu(self.hidden(x)))
        y: Tensor = self.output(x)
        return y

    def cost(self, vectors: int) -> Cost:
        last = self.output.cost(vectors)
        if self.hidden is None:
            return last
        return self.hidden.cost(vectors) + Cost(elementwise=vectors * self.hidden.config.out_features) + last


def check_labels(target: Tensor, classes: int, *, ignored: int | None = None) -> None:
    """Raises: ConfigError for a label outside 0 … classes - 1: on a GPU, torch would end the process instead.

    Left out under torch.compile, which cannot look at values.
    """
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ConfigError(f"labels must be integers, got {target.dtype}")
    if torch.compiler.is_compiling():
        return
    wrong = (target < 0) | (target >= classes)
    if ignored is not None:
        wrong &= target != ignored
    if wrong.any():
        raise ConfigError(f"label {int(target[wrong][0])} is not in 0 … {classes - 1}")


def cross_entropy(logits: Tensor, target: Tensor, *, ignored: int = -100) -> Tensor:
    """Mean nats over the targets that are not ``ignored``, logits (..., C), target (...); 0 when all are.
    Raises: as check_labels.
    """
    if logits.shape[:-1] != target.shape:
        raise ConfigError(
            f"logits {tuple(logits.shape)} need labels {tuple(logits.shape[:-1])}, got {tuple(target.shape)}"
        )
    check_labels(target, logits.shape[-1], ignored=ignored)
    nats = F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=ignored, reduction="sum")
    return nats / (target != ignored).sum().clamp_min(1)  # torch's own mean over nothing is NaN
