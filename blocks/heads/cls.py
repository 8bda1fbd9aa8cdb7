"""The first token, as BERT pools. Legend: B batch, T tokens, D width.

Source: arXiv 1810.04805 §3; HazyResearch/m2, bert/src/bert_layers.py (BertPooler): dense and tanh on the first token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blocks.contract import Pooler
from blocks.cost import Cost
from blocks.heads.pooling import PoolerConfig, cleared, tokens_of
from blocks.linear import Linear, LinearConfig
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class ClsPoolerConfig(PoolerConfig):
    dense: bool = True  # False: the bare token, which is first_k with k = 1


@register("cls", kind="pooler", config=ClsPoolerConfig, source="arXiv:1810.04805 §3", complexity="O(1)", causal=False)
class ClsPooler(Pooler):
    """tanh(W x + b) of the first valid token; zeros where there is none, without the bias.

    On a causal encoder the first token has seen nothing but itself: the answer would not depend on the text.
    Shape: (B, T, D) -> (B, D). Cost: D² + D weights, 2·D² FLOPs a sequence; elementwise D bias, D tanh.
    Raises: ConfigError for a width below 1.
    """

    config: ClsPoolerConfig

    def __init__(self, config: ClsPoolerConfig) -> None:
        super().__init__(config)
        self.dense = Linear(LinearConfig(in_features=config.width, out_features=config.width)) if config.dense else None

    def reset_parameters(self) -> None:
        if self.dense is not None:
            self.dense.reset_parameters()

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        real = tokens_of(x, valid)
        first = real.to(torch.uint8).argmax(dim=1)  # of equal maxima, argmax takes the first
        token = cleared(x.take_along_dim(first[:, None, None], dim=1).squeeze(1), real.any(dim=1))
        if self.dense is None:
            return token
        return cleared(torch.tanh(self.dense(token)), real.any(dim=1))

    def cost(self, tokens: int) -> Cost:
        return Cost() if self.dense is None else self.dense.cost(1) + Cost(elementwise=self.config.width)
