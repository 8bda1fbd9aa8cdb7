"""The scalar by which Gemma 4 multiplies the output of a layer.

Legend: D width.
Sources: ``skip_scale`` of google-deepmind/gemma gemma/gm/nn/gemma4; ``layer_scalar`` of
huggingface/transformers models/gemma4. The first trains it, the second only keeps it (a buffer, which is why
published counts leave it out).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blocks.contract import Block, BlockConfig
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class LayerScaleConfig(BlockConfig):
    width: int
    trained: bool = True  # False: a value that is loaded and saved, not trained and not counted

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"LayerScaleConfig: width must be at least 1, got {self.width}")


@register(
    "layer_scale", kind="linear", config=LayerScaleConfig, source="google-deepmind/gemma gemma/gm/nn/gemma4"
)
class LayerScale(Block):
    """``x`` times one scalar, which starts at 1.

    Shape: (..., D) -> (..., D). Cost: 1 weight when trained; D elementwise FLOPs per token.
    Raises: ConfigError for a width below 1.
    """

    config: LayerScaleConfig
    weight: Tensor

    def __init__(self, config: LayerScaleConfig) -> None:
        super().__init__(config)
        value = torch.empty(1)
        if config.trained:
            self.weight = nn.Parameter(value)
        else:
            self.register_buffer("weight", value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.to(x.dtype)

    def cost(self, tokens: int) -> Cost:
        return Cost(elementwise=tokens * self.config.width)
