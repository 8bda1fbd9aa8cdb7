"""A patch embedding fed with strips: a row of T patches is an image of P x T·P pixels, so every law of position-wise blocks applies.

Legend: B batch, C channels, P patch, T patches, D width.
The class token is added to every output, so that it is under the laws too and its gradient is checked. How an image of several
rows of patches is read is shown by the block's own tests.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from blocks.contract import Block
from blocks.cost import Cost
from blocks.vision.patches import PatchEmbedding


class Strip(Block):
    """``embedding`` reading the pixels of each patch (B, T, C·P·P) instead of an image."""

    def __init__(self, embedding: PatchEmbedding) -> None:
        super().__init__(embedding.config)
        self.embedding = embedding

    @property
    def width(self) -> int:
        """Numbers a patch: the input size the laws draw."""
        config = self.embedding.config
        return config.channels * config.patch**2

    @property
    def longest(self) -> int | None:
        """Patches a strip may have; None where there are no positions."""
        grid = self.embedding.config.grid
        return None if grid is None else grid[1]

    def reset_parameters(self) -> None:
        self.embedding.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        p, c = self.embedding.config.patch, self.embedding.config.channels
        y: Tensor = self.embedding(rearrange(x, "b t (c p q) -> b c p (t q)", c=c, p=p, q=p))
        return y[:, 1:] + y[:, :1] if self.embedding.config.class_token else y

    def cost(self, tokens: int) -> Cost:
        return self.embedding.cost(tokens)
