"""Poolers by attention: a learned query reads the tokens, or the tokens read learned keys and values.

Legend: B batch, T tokens, D width, H heads, C = D/H head width, M slots (learned keys, each with its value).
attn_query, arXiv 2509.20354 (EmbeddingGemma): softmax(q Kᵀ / √d) V, one learned query row, K and V projected
from the tokens, 4 heads. No output projection is described, so there is none.
attn_kv, arXiv 2503.02656 (Gemma Encoder), names an attention pooler whose probe stands for keys and values.
Its definition is not published: projections, number of probes and what follows the mean are unknown. This is
the plainest reading (the tokens are the queries, without projection), and no number of the paper may be
expected of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.contract import Pooler
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.heads.poolers import PoolerConfig, average, cleared, tokens_of
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
    """Softmax attention of one learned query row over the valid tokens; zeros where there is none.

    No positions.

    Shape: (B, T, D) -> (B, D). Cost: 2·D² + D weights, 4·T·D² FLOPs for keys and values, 4·T·D for scores and
    sums; elementwise, per token and head: 1 scale, 5 softmax. Raises: ConfigError for a width that heads do
    not divide.
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
        q_BH1C = repeat(self.query, "h c -> b h 1 c", b=x.shape[0])
        k_BHTC = rearrange(self.key(x), "b t (h c) -> b h t c", h=self.config.heads)
        v_BHTC = rearrange(self.value(x), "b t (h c) -> b h t c", h=self.config.heads)
        y_BH1C = F.scaled_dot_product_attention(q_BH1C, k_BHTC, v_BHTC, attn_mask=mask)
        return rearrange(y_BH1C, "b h 1 c -> b (h c)")

    def cost(self, tokens: int) -> Cost:
        projections = self.key.cost(tokens) + self.value.cost(tokens)
        return projections + Cost(
            matmul=4 * tokens * self.config.width, elementwise=6 * tokens * self.config.heads
        )


@dataclass(frozen=True, kw_only=True)
class KeyValuePoolerConfig(PoolerConfig):
    heads: int = 4
    slots: int = 16  # M; not known from a source

    def __post_init__(self) -> None:
        self.at_least_one("width", "heads")
        self.divided_by_heads(self.heads)
        if self.slots < 2:  # a softmax over one key is 1, whatever the query
            reason = "because one slot ignores the tokens"
            raise ConfigError(f"KeyValuePoolerConfig: slots must be at least 2, {reason}, got {self.slots}")


@register(
    "attn_kv",
    kind="pooler",
    config=KeyValuePoolerConfig,
    source="arXiv:2503.02656 (a reading)",
    complexity="O(T·M)",
    causal=False,
)
class KeyValuePooler(Pooler):
    """Each valid token attends to M learned keys and values; the mean of what they read.

    Zeros where there is no token.

    Shape: (B, T, D) -> (B, D). Cost: 2·M·D weights, 4·T·M·D FLOPs; elementwise, per token, head and slot: 1
    scale, 5 softmax, and T·D for the mean. Raises: ConfigError for a width that heads do not divide, or fewer
    than 2 slots.
    """

    config: KeyValuePoolerConfig

    def __init__(self, config: KeyValuePoolerConfig) -> None:
        super().__init__(config)
        shape = (config.heads, config.slots, config.width // config.heads)
        self.keys = nn.Parameter(torch.empty(shape))
        self.values = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.keys)
        nn.init.normal_(self.values)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        real = tokens_of(x, valid)
        if valid is not None:
            # the mean drops padding, but the gradient of a NaN would still reach the slots
            x = cleared(x, real)
        q_BHTC = rearrange(x, "b t (h c) -> b h t c", h=self.config.heads)
        k_BHMC, v_BHMC = (slots.expand(x.shape[0], -1, -1, -1) for slots in (self.keys, self.values))
        y_BHTC = F.scaled_dot_product_attention(q_BHTC, k_BHMC, v_BHMC)
        return average(rearrange(y_BHTC, "b h t c -> b t (h c)"), real)

    def cost(self, tokens: int) -> Cost:
        config = self.config
        return Cost(
            matmul=4 * tokens * config.slots * config.width,
            elementwise=6 * tokens * config.heads * config.slots + tokens * config.width,
        )
