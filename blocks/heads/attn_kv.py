"""Attention pooling with learned keys and values: the tokens ask, the probes answer, the answers are averaged.

Legend: B batch, T tokens, D width, H heads, C = D/H head width, M slots (learned keys, each with its value).
Source: arXiv 2503.02656 (Gemma Encoder) names an attention pooler whose probe stands for keys and values. Its exact definition
is not established: the projections, the number of probes and what follows the mean are not known to us. This is the plainest
reading (the tokens themselves are the queries, no projection), and no number of the paper may be expected of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.contract import Pooler
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.heads.pooling import PoolerConfig, average, cleared, tokens_of
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class KeyValuePoolerConfig(PoolerConfig):
    heads: int = 4
    slots: int = 16  # M; not known from a source

    def __post_init__(self) -> None:
        self.at_least_one("width", "heads")
        self.divided_by_heads(self.heads)
        if self.slots < 2:  # a softmax over one key is 1 whatever is asked
            raise ConfigError(f"KeyValuePoolerConfig: slots must be at least 2, because one slot ignores the tokens, got {self.slots}")


@register("attn_kv", kind="pooler", config=KeyValuePoolerConfig, source="arXiv:2503.02656 (a reading)", complexity="O(T·M)", causal=False)
class KeyValuePooler(Pooler):
    """Each valid token attends to M learned keys and values; the mean of what they read. Zeros where there is no token.

    Shape: (B, T, D) -> (B, D). Cost: 2·M·D weights, 4·T·M·D FLOPs; elementwise, per token, head and slot: 1 scale, 5 softmax,
    and T·D for the mean. Raises: ConfigError for a width that heads do not divide, or fewer than 2 slots.
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
            x = cleared(x, real)  # the mean drops padding, but the gradient of a NaN would still reach the slots
        k, v = (slots.expand(x.shape[0], -1, -1, -1) for slots in (self.keys, self.values))
        read = F.scaled_dot_product_attention(rearrange(x, "b t (h c) -> b h t c", h=self.config.heads), k, v)
        return average(rearrange(read, "b h t c -> b t (h c)"), real)

    def cost(self, tokens: int) -> Cost:
        config = self.config
        return Cost(
            matmul=4 * tokens * config.slots * config.width,
            elementwise=6 * tokens * config.heads * config.slots + tokens * config.width,
        )
