"""From the vector of an image to its class scores: normed, then a linear map. Poolers (blocks.heads) stand
before it.

Legend: D width, N classes.
Source: arXiv 2010.11929 §3.1 (the class token read); HazyResearch/safari, hyena-vit.yaml (no class token,
hence the mean).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from blocks.config import Options
from blocks.contract import Block, BlockConfig
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.groups import HEAD, ParameterGroup
from blocks.linear import Linear, LinearConfig
from blocks.norm import LayerNorm, LayerNormConfig
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class ImageHeadConfig(BlockConfig):
    width: int
    classes: int
    eps: float = 1e-6

    def __post_init__(self) -> None:
        for name, minimum in (("width", 1), ("classes", 2)):
            if getattr(self, name) < minimum:
                raise ConfigError(
                    f"ImageHeadConfig: {name} must be at least {minimum}, got {getattr(self, name)}"
                )
        if not self.eps > 0:
            raise ConfigError(f"ImageHeadConfig: eps must be positive, got {self.eps}")


@register("image_head", kind="head", config=ImageHeadConfig, source="arXiv:2010.11929 §3.1")
class ImageHead(Block):
    """W · LayerNorm(x) + b of a pooled vector.

    Shape: (..., D) -> (..., N). Cost: 2·D of the norm, N·D + N weights; 2·N·D FLOPs per vector; elementwise
    7·D norm, N bias.
    Raises: ConfigError for a width below 1 or fewer than 2 classes.
    """

    config: ImageHeadConfig

    def __init__(self, config: ImageHeadConfig) -> None:
        super().__init__(config)
        self.norm = LayerNorm(LayerNormConfig(width=config.width, eps=config.eps))
        self.scores = Linear(LinearConfig(in_features=config.width, out_features=config.classes))
        self.reset_parameters()

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        return {"": HEAD}

    def reset_parameters(self) -> None:
        self.norm.reset_parameters()
        self.scores.reset_parameters()

    @classmethod
    def law_cases(cls) -> list[Options]:
        return [{"width": 8, "classes": 7}, {"width": 8, "classes": 2}]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.scores(self.norm(x))
        return y

    def cost(self, tokens: int) -> Cost:
        return self.norm.cost(tokens) + self.scores.cost(tokens)
