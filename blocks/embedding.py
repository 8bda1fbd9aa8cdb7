"""Token embedding whose table is also the output head.

Legend: B batch, T tokens, D width, V vocabulary.
Source: google/gemma_pytorch gemma/model.py. The input is multiplied by sqrt(D), the head is not; the table is
one parameter, counted once, while the head's matmul is always counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blocks.contract import Block, BlockConfig
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.groups import TIED_EMBEDDING, ParameterGroup
from blocks.registry import register
from blocks.softcap import soft_cap


@dataclass(frozen=True, kw_only=True)
class TiedEmbeddingConfig(BlockConfig):
    vocabulary: int
    width: int
    scale: bool = True  # multiply the looked-up rows by sqrt(width)
    final_softcap: float | None = None  # c: logits become c·tanh(logits / c); 30 in Gemma 2

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"TiedEmbeddingConfig: {name} must be at least 1, got {getattr(self, name)}"
                )
        cap = self.final_softcap
        if cap is not None and not (cap > 0 and isfinite(cap)):
            raise ConfigError(
                f"TiedEmbeddingConfig: final_softcap must be a positive number or null (no cap), got {cap}"
            )


@register(
    "tied_embedding",
    kind="embedding",
    config=TiedEmbeddingConfig,
    source="arXiv:2403.08295",
    complexity="O(T)",
)
class TiedEmbedding(Block):
    """One (V, D) table, looked up on the way in and multiplied on the way out.

    ``forward``: tokens (..., T) integer -> (..., T, D). ``logits``: (..., D) -> (..., V), soft-capped when
    configured.
    Cost: V·D weights; 2·V·D FLOPs per token for the head, the look-up is free; elementwise: D for the scale
    and 3·V for the cap (divide, tanh, multiply). Raises: ConfigError for sizes below 1 or a cap that is not
    positive.
    """

    config: TiedEmbeddingConfig

    def __init__(self, config: TiedEmbeddingConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.empty(config.vocabulary, config.width))
        self.reset_parameters()

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        return {"": TIED_EMBEDDING}

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.config.width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.embedding(tokens, self.weight)
        if not self.config.scale:
            return x
        # The reference codes round sqrt(D) to the weights' dtype before multiplying: 55.4256 is 55.5 in
        # bfloat16
        return x * torch.full((), self.config.width**0.5, dtype=x.dtype, device=x.device)

    def logits(self, x: Tensor) -> Tensor:
        logits = F.linear(x, self.weight)
        cap = self.config.final_softcap
        return logits if cap is None else soft_cap(logits, cap)

    def cost(self, tokens: int) -> Cost:
        config = self.config
        scale = config.width if config.scale else 0
        cap = 3 * config.vocabulary if config.final_softcap is not None else 0
        return Cost(matmul=2 * tokens * config.vocabulary * config.width, elementwise=tokens * (scale + cap))
