"""Logits from likeness to a library of entities: a classifier for many classes of which most are rare.

Legend: D width, E entity_width, N entities.
Source: arXiv 1805.05370 (AMORE-UPF), amore-upf/semeval2018-task4: dropout, Linear to E, cosine with every
row, log-softmax.
Without a temperature, as published, cosine logits lie in [-1, 1]: over N classes the loss starts near ln N
and cannot fall below ln(1 + (N - 1)·e⁻²), 4.01 of 5.99 nats at N = 401, while accuracy still rises. The
library helped rare entities and cost the frequent ones a little. A tied output table of a language model is
this head with score "dot".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.heads.base import ReadoutConfig, TaskHead, cross_entropy
from blocks.linear import Linear, LinearConfig
from blocks.norm import widened
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class EntityLibraryHeadConfig(ReadoutConfig):
    """``entity_width`` None: no projection, the vector itself is compared (E = D).

    ``hidden`` must stay None.
    """

    entities: int
    entity_width: int | None = None
    score: Literal["cosine", "dot"] = "cosine"
    temperature: float | None = None  # logits are divided by it; None, as published, divides by 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least_one("entities", *(["entity_width"] if self.entity_width is not None else []))
        if self.hidden is not None:
            raise ConfigError(
                "EntityLibraryHeadConfig: hidden is not an option of this head; "
                "set entity_width for a projection"
            )
        if self.temperature is not None and not self.temperature > 0:
            raise ConfigError(
                f"EntityLibraryHeadConfig: temperature must be positive or None, got {self.temperature}"
            )


@register(
    "entity_library",
    kind="head",
    config=EntityLibraryHeadConfig,
    source="arXiv:1805.05370",
    complexity="O(T·N)",
)
class EntityLibraryHead(TaskHead):
    """Cosine or dot product of the projected vector with every row of an entity matrix.

    Loss: mean cross-entropy.
    ``share_with(table)`` makes the library the same parameter as another module's, speaker embeddings say.
    Shape: (..., D) -> (..., N). Cost: D·E + E weights for the projection and N·E for the library, 2·E·(D + N)
    FLOPs per vector; elementwise with "cosine" 3·E a vector, and 3·N·E once per forward pass. Raises:
    ConfigError for a size below 1, a temperature that is not positive, a shared table of another shape, from
    the loss for a label outside 0 … N - 1.
    """

    config: EntityLibraryHeadConfig

    def __init__(self, config: EntityLibraryHeadConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)
        width = config.entity_width
        self.projection = (
            None if width is None else Linear(LinearConfig(in_features=config.width, out_features=width))
        )
        self.library = nn.Parameter(torch.empty(config.entities, width or config.width))
        self.shared = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.projection is not None:
            self.projection.reset_parameters()
        if not self.shared:  # else its owner draws it
            nn.init.normal_(self.library, std=self.library.shape[1] ** -0.5)

    def share_with(self, table: nn.Parameter) -> EntityLibraryHead:
        """From now on the library is ``table`` (N, E) itself: one parameter, one gradient.

        Returns the head.
        """
        if table.shape != self.library.shape:
            raise ConfigError(
                f"entity_library: a table of {tuple(self.library.shape)} can be shared, "
                f"got {tuple(table.shape)}"
            )
        self.library, self.shared = table, True
        return self

    def forward(self, x: Tensor) -> Tensor:
        query: Tensor = self.dropout(x)
        rows: Tensor = self.library
        if self.projection is not None:
            query = self.projection(query)
        if self.config.score == "cosine":
            query, rows = unit(query), unit(rows)
        logits = F.linear(query, rows)
        return logits if self.config.temperature is None else logits / self.config.temperature

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(self(x), target)

    def predict(self, x: Tensor) -> Tensor:
        """(...) nearest entity; of equal logits the lowest."""
        return self(x).argmax(dim=-1)  # type: ignore[no-any-return]

    def cost(self, tokens: int) -> Cost:
        config = self.config
        width = config.entity_width or config.width
        total = Cost(matmul=2 * tokens * width * config.entities)
        if self.projection is not None:
            total += self.projection.cost(tokens)
        if config.score == "cosine":
            total += Cost(elementwise=3 * tokens * width, shared_elementwise=3 * config.entities * width)
        return total if config.temperature is None else total + Cost(elementwise=tokens * config.entities)


def unit(x: Tensor) -> Tensor:
    """x over its length, in float32 or wider, dtype kept; the zero vector stays zero."""
    return F.normalize(x.to(widened(x.dtype)), dim=-1).to(x.dtype)
