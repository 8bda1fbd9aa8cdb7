"""Attention pooling with a learned query: the probe asks, the tokens answer.

Legend: B batch, T tokens, D width, H heads, C = D/H head width.
Source: arXiv 2509.20354 (EmbeddingGemma): softmax(q Kᵀ / √d) V, one learned query row, K and V projected from the tokens,
4 heads. No output projection is described, so there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.contract import Pooler
from blocks.cost import Cost
from blocks.heads.pooling import PoolerConfig, cleared, tokens_of
from blocks.linear import dense
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class QueryPoolerConfig(PoolerConfig):
    heads: int = 4

    def __post_init__(self) -> None:
        self.at_least_one("width", "heads")
        self.divided_by_heads(self.heads)


@register("attn_query", kind="pooler", config=QueryPoolerConfig, source="arXiv:2509.20354", causal=False)
class QueryPooler(Pooler):
    """Softmax attention of one learned query row over the valid tokens; zeros where there is none. No positions.

    Shape: (B, T, D) -> (B, D). Cost: 2·D² + D weights, 4·T·D² FLOPs for keys and values, 4·T·D for scores and sums;
    elementwise, per token and head: 1 scale, 5 softmax. Raises: ConfigError for a width that heads do not divide.
    """

    config: QueryPoolerConfig

    def __init__(self, config: QueryPoolerConfig) -> None:
        super().__init__(config)
        self.query = nn.Parameter(torch.empty(config.heads, config.width // config.heads))
        self.key = dense(config.width, config.width)
        self.value = dense(config.width, config.width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.query)  # keys of unit variance then give scores of unit variance
        self.key.reset_parameters()
        self.value.reset_parameters()

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        real, mask = tokens_of(x, valid), None
        if valid is not None:
            x = cleared(x, real)
            # an empty row reads its zeros: a softmax over nothing would be NaN, in the gradient too
            mask = rearrange(real | ~real.any(dim=1, keepdim=True), "b t -> b 1 1 t")
        q = repeat(self.query, "h c -> b h 1 c", b=x.shape[0])
        k, v = (rearrange(projected(x), "b t (h c) -> b h t c", h=self.config.heads) for projected in (self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return rearrange(y, "b h 1 c -> b (h c)")

    def cost(self, tokens: int) -> Cost:
        projections = self.key.cost(tokens) + self.value.cost(tokens)
        return projections + Cost(matmul=4 * tokens * self.config.width, elementwise=6 * tokens * self.config.heads)
