"""The transform between a BERT's last layer and its output table.

Legend: D width.
Source: arXiv 1810.04805; HazyResearch/m2, bert/src/bert_layers.py (BertPredictionHeadTransform), LayerNorm
eps 1e-12.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from blocks.contract import Block, BlockConfig
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.groups import HEAD, ParameterGroup
from blocks.linear import Linear, LinearConfig
from blocks.norm import LayerNorm, LayerNormConfig
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class BertHeadConfig(BlockConfig):
    width: int
    eps: float = 1e-12

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"BertHeadConfig: width must be at least 1, got {self.width}")


@register("bert_head", kind="head", config=BertHeadConfig, source="arXiv:1810.04805 §3.1")
class BertHead(Block):
    """LayerNorm(gelu(W x + b)), exact (erf) GELU; the tied table after it belongs to ``bert_embedding``.

    Shape: (..., D) -> (..., D). Cost: D² + 3·D weights, 2·D² FLOPs per token; elementwise D bias, D GELU, 7·D
    norm.
    Raises: ConfigError for a width below 1.
    """

    config: BertHeadConfig

    def __init__(self, config: BertHeadConfig) -> None:
        super().__init__(config)
        self.dense = Linear(LinearConfig(in_features=config.width, out_features=config.width))
        self.norm = LayerNorm(LayerNormConfig(width=config.width, eps=config.eps))

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        return {"": HEAD}

    def reset_parameters(self) -> None:
        self.dense.reset_parameters()
        self.norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(F.gelu(self.dense(x)))
        return out

    def cost(self, tokens: int) -> Cost:
        return self.dense.cost(tokens) + self.norm.cost(tokens) + Cost(elementwise=tokens * self.config.width)
