"""The input of a BERT: word, token-type and position tables, summed and normed.

The word table is also the output head.

Legend: B batch, T tokens, D width, V vocabulary, L max_tokens.
Source: arXiv 1810.04805; HazyResearch/m2, bert/src/bert_layers.py (BertEmbeddings), LayerNorm eps 1e-12. Its
dropout is absent here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.contract import Block, BlockConfig
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.groups import EMBEDDING, ParameterGroup
from blocks.norm import LayerNorm, LayerNormConfig
from blocks.registry import register
from blocks.segments import runs


@dataclass(frozen=True, kw_only=True)
class BertEmbeddingConfig(BlockConfig):
    vocabulary: int
    width: int
    max_tokens: int = 128  # rows of the position table, hence the longest document
    types: int = 2  # sentence A and sentence B
    eps: float = 1e-12

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "max_tokens", "types"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"BertEmbeddingConfig: {name} must be at least 1, got {getattr(self, name)}"
                )


@register("bert_embedding", kind="embedding", config=BertEmbeddingConfig, source="arXiv:1810.04805 §3")
class BertEmbedding(Block):
    """LayerNorm(word + type + position), and logits from the word table.

    ``forward``: tokens (B, T) integer -> (B, T, D). Positions count from the start of each document of
    ``segments`` (B, T; ids, 0 = padding), so neither padding before it nor a neighbour in its row moves them.
    ``types`` (B, T): 0 when left out. ``logits``: (..., D) -> (..., V), tied, with a bias of its own.
    Cost: V·D + 2·D + L·D weights, 2·D of the norm and V of the bias; 2·V·D FLOPs per token for the head,
    look-ups are free; elementwise: 2·D for the sums, 7·D for the norm, V for the bias.
    Raises: ConfigError when a document is longer than ``max_tokens``.
    """

    config: BertEmbeddingConfig

    def __init__(self, config: BertEmbeddingConfig) -> None:
        super().__init__(config)
        self.words = nn.Parameter(torch.empty(config.vocabulary, config.width))
        self.kinds = nn.Parameter(torch.empty(config.types, config.width))
        self.places = nn.Parameter(torch.empty(config.max_tokens, config.width))
        self.norm = LayerNorm(LayerNormConfig(width=config.width, eps=config.eps))
        self.bias = nn.Parameter(torch.empty(config.vocabulary))
        self.reset_parameters()

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        return {"": EMBEDDING}

    def reset_parameters(self) -> None:
        """All tables N(0, 1/D), as every tied table here (the released 0.02 is that at D = 2500).

        The norm makes them one scale.
        """
        for table in (self.words, self.kinds, self.places):
            nn.init.normal_(table, std=self.config.width**-0.5)
        nn.init.zeros_(self.bias)
        self.norm.reset_parameters()

    def forward(self, tokens: Tensor, segments: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        position = self._positions(tokens, segments)
        kind = self.kinds[0] if types is None else F.embedding(types, self.kinds)
        out: Tensor = self.norm(F.embedding(tokens, self.words) + kind + position)
        return out

    def _positions(self, tokens: Tensor, segments: Tensor | None) -> Tensor:
        """Rows of the position table: (T, D), or (B, T, D) when documents start anywhere."""
        length, longest = tokens.shape[-1], self.config.max_tokens
        if segments is None:
            if length > longest:
                raise ConfigError(
                    f"sequence of {length} tokens exceeds the {longest} positions this embedding was built "
                    "for"
                )
            return self.places[:length]
        run = runs(segments)
        time = torch.arange(length, device=tokens.device).expand_as(run)
        starts = torch.ones_like(run, dtype=torch.bool)
        starts[:, 1:] = run[:, 1:] != run[:, :-1]
        index = torch.where(run > 0, time - torch.where(starts, time, 0).cummax(dim=1).values, 0)
        if not index.is_meta and int(index.max()) >= longest:
            raise ConfigError(
                f"document of {int(index.max()) + 1} tokens exceeds the {longest} positions this embedding "
                "was built for"
            )
        return F.embedding(index, self.places)

    def logits(self, x: Tensor) -> Tensor:
        return F.linear(x, self.words, self.bias)

    def cost(self, tokens: int) -> Cost:
        config = self.config
        sums = Cost(elementwise=tokens * (2 * config.width + config.vocabulary))
        return Cost(matmul=2 * tokens * config.vocabulary * config.width) + sums + self.norm.cost(tokens)
