"""An image as a sequence: square patches in reading order, each one token.

Legend: B batch, C channels, H x W pixels, P patch, h x w patches (h = H/P, w = W/P, T = h·w), D width.
Source: arXiv 2010.11929 §3.1 (ViT): one linear map of each patch's pixels, learned positions, a class token
in front. Hyena's and Monarch Mixer's image models have neither positions nor class token
(HazyResearch/safari, configs/experiment/imagenet/hyena-vit.yaml).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from blocks.config import Options
from blocks.contract import Block, BlockConfig
from blocks.cost import Cost
from blocks.errors import ConfigError
from blocks.groups import EMBEDDING, ParameterGroup
from blocks.linear import Linear, LinearConfig
from blocks.registry import register


@dataclass(frozen=True, kw_only=True)
class PatchEmbeddingConfig(BlockConfig):
    width: int
    patch: int = 16
    channels: int = 3
    # h, w of the position table; None: no positions, and images of any size
    grid: tuple[int, int] | None = None
    class_token: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "patch", "channels"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"PatchEmbeddingConfig: {name} must be at least 1, got {getattr(self, name)}"
                )
        if self.grid is not None and (len(self.grid) != 2 or min(self.grid) < 1):
            raise ConfigError(
                "PatchEmbeddingConfig: grid must be two numbers from 1 on (rows and columns of patches), "
                f"got {self.grid}"
            )


def image_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """(h, w) patches of an image. Raises: ConfigError unless the patch divides both sides."""
    if height < 1 or width < 1 or height % patch or width % patch:
        raise ConfigError(
            f"an image of {height} x {width} pixels cannot be cut into patches of {patch} x {patch}: "
            "it must divide both sides"
        )
    return height // patch, width // patch


def cut(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, T, C·P·P): the pixels of each patch, channel by channel, row by row."""
    height, width = images.shape[-2:]
    image_grid(height, width, patch)
    return rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


@register("patch_embedding", kind="embedding", config=PatchEmbeddingConfig, source="arXiv:2010.11929 §3.1")
class PatchEmbedding(Block):
    """W · (pixels of a patch) + b, plus the position of the patch; a class token before them when asked for.

    ``forward``: images (B, C, H, W) floating -> (B, T, D), with a class token (B, T + 1, D). An image smaller
    than the grid takes the positions of its top left corner.
    Cost (``tokens``: the T patches): C·P²·D + D weights, h·w·D positions, D of the class token and D of its
    position; 2·C·P²·D FLOPs per patch; elementwise: D for the bias and D for the position.
    Raises: ConfigError when the patch does not divide both sides, for other channels, or for an image larger
    than the grid.
    """

    config: PatchEmbeddingConfig

    def __init__(self, config: PatchEmbeddingConfig) -> None:
        super().__init__(config)
        self.projection = Linear(
            LinearConfig(in_features=config.channels * config.patch**2, out_features=config.width)
        )
        rows = 0 if config.grid is None else config.grid[0] * config.grid[1] + config.class_token
        # the class token's is the first
        self.positions = nn.Parameter(torch.empty(rows, config.width)) if rows else None
        self.class_token = nn.Parameter(torch.empty(config.width)) if config.class_token else None
        self.reset_parameters()

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        return {"": EMBEDDING}

    def reset_parameters(self) -> None:
        """Tables N(0, 1/D), as every table here."""
        self.projection.reset_parameters()
        for table in (self.positions, self.class_token):
            if table is not None:
                nn.init.normal_(table, std=self.config.width**-0.5)

    @classmethod
    def law_cases(cls) -> list[Options]:
        plain = {"width": 8, "patch": 2, "channels": 3}
        placed = {**plain, "grid": [5, 13]}
        return [
            plain,
            {**plain, "class_token": True},
            placed,
            {**placed, "class_token": True},
            {"width": 8, "patch": 3, "channels": 1},
        ]

    def forward(self, images: Tensor) -> Tensor:
        config = self.config
        if images.shape[1] != config.channels:
            raise ConfigError(
                f"patch embedding: built for {config.channels} channels, the images have {images.shape[1]}"
            )
        x: Tensor = self.projection(cut(images, config.patch))
        front: Tensor | None = self.class_token
        if self.positions is not None:
            x = x + self._places(images.shape[-2] // config.patch, images.shape[-1] // config.patch)
            front = None if front is None else front + self.positions[0]
        return x if front is None else torch.cat([front.expand(len(x), 1, -1), x], dim=1)

    def _places(self, h: int, w: int) -> Tensor:
        """(h·w, D): the rows of the table for an image of h x w patches."""
        assert self.config.grid is not None and self.positions is not None
        rows, columns = self.config.grid
        if h > rows or w > columns:
            raise ConfigError(
                f"patch embedding: an image of {h} x {w} patches exceeds the {rows} x {columns} positions "
                "it was built for"
            )
        table = rearrange(self.positions[int(self.config.class_token) :], "(r c) d -> r c d", r=rows)
        return rearrange(table[:h, :w], "h w d -> (h w) d")

    def cost(self, tokens: int) -> Cost:
        places = 0 if self.positions is None else tokens + self.config.class_token
        return self.projection.cost(tokens) + Cost(elementwise=places * self.config.width)
