"""A cross mixer in front of a memory that does not change is a causal sequence mixer: so every law of one applies to it.

Legend: B batch, T tokens, S memory tokens, M memory width.
What concerns the memory itself (its padding, its other rows, packed pairs) has its probe in ``arch_lab.laws.memory``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from arch_lab.laws.pictures import Strip
from blocks.contract import Block, CrossMixer, SequenceMixer
from blocks.cost import Cost
from blocks.vision.patches import PatchEmbedding

MEMORY = 7  # S: odd, and shorter and longer than the sequences tried


class Anchored(SequenceMixer):
    """``mixer`` reading one and the same memory in every row. The memory is a parameter, so its gradients are checked too."""

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


def staged(block: Block) -> Block:
    """``block`` as the laws call it: a cross mixer with its memory, a patch embedding on strips, any other block itself."""
    if isinstance(block, PatchEmbedding):
        return Strip(block)
    return Anchored(block) if isinstance(block, CrossMixer) else block


def bare(module: Any) -> Any:
    """The inverse of ``staged``."""
    if isinstance(module, Strip):
        return module.embedding
    return module.mixer if isinstance(module, Anchored) else module
