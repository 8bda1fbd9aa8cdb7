"""Blocks as the laws call them: every one maps (B, T, D) to (B, T, ...), with what else it reads held fixed.

Legend: B batch, T tokens, S memory tokens, M memory width, C channels, P patch, D width.
A cross mixer in front of a fixed memory is a causal sequence mixer, and a patch embedding fed with strips is
a position-wise block: so every law of these kinds applies. What concerns the memory itself is in
``arch_lab.laws.memory``; how an image of several rows of patches is read is shown by the block's own tests.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from blocks.contract import Block, CrossMixer, SequenceMixer
from blocks.cost import Cost
from blocks.vision.patches import PatchEmbedding

MEMORY = 7  # S: odd, and shorter and longer than the sequences tried


def staged(block: Block) -> Block:
    """A cross mixer with its memory, a patch embedding on strips, any other block itself."""
    if isinstance(block, PatchEmbedding):
        return Strip(block)
    return Anchored(block) if isinstance(block, CrossMixer) else block


def bare(module: Any) -> Any:
    """The inverse of ``staged``."""
    if isinstance(module, Strip):
        return module.embedding
    return module.mixer if isinstance(module, Anchored) else module


class Anchored(SequenceMixer):
    """``mixer`` reading one memory in every row. The memory is a parameter: its gradients are checked too."""

    def __init__(self, mixer: CrossMixer) -> None:
        super().__init__(mixer.config)
        self.mixer = mixer
        self.memory = nn.Parameter(torch.empty(1, MEMORY, mixer.memory_width))
        nn.init.normal_(self.memory)

    @property
    def causal(self) -> bool:
        return True

    def reset_parameters(self) -> None:
        self.mixer.reset_parameters()
        nn.init.normal_(self.memory)

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        return self.mixer(x, self.memory.expand(x.shape[0], -1, -1), segments)  # type: ignore[no-any-return]

    def init_state(self, batch: int, max_tokens: int) -> Any:
        return self.mixer.init_state(self.memory.expand(batch, -1, -1), max_tokens)

    def prefill(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.mixer.prefill(x, state)

    def state_bytes(self, tokens: int) -> int:
        return self.mixer.state_bytes(tokens, MEMORY)

    def cost(self, tokens: int) -> Cost:
        return self.mixer.cost(tokens, MEMORY)


class Strip(Block):
    """``embedding`` reading the pixels of each patch (B, T, C·P·P): an image of P x T·P pixels.

    The class token is added to every output, so that it is under the laws too and its gradient is checked.
    """

    def __init__(self, embedding: PatchEmbedding) -> None:
        super().__init__(embedding.config)
        self.embedding = embedding

    @property
    def width(self) -> int:
        """Numbers per patch: the input size the laws draw."""
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
