"""What the blocks of the meta-test are made of: an honest mixer from which each breaks in one place.

Legend: B batch, T tokens, D width.
``ByHistory`` turns any causal function of a whole row into a complete mixer: documents become rows of their
own, decoding keeps every input and computes the row again. Slow, and right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from blocks import BlockConfig, Cost, SequenceMixer, register
from blocks.contract import parameter_dtype
from blocks.segments import check, repack, unpack

M = TypeVar("M", bound=type[SequenceMixer])


@dataclass(frozen=True, kw_only=True)
class Width(BlockConfig):
    width: int


@dataclass(frozen=True, kw_only=True)
class Long(Width):
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Windowed(Width):
    window: int = 5


def third_party(options: type[BlockConfig] = Width) -> Callable[[M], M]:
    """Registers a class under its own name with a config class of its own (registration ties the two)."""

    def add(cls: M) -> M:
        config = type(f"{cls.__name__}Config", (options,), {"__module__": cls.__module__})
        return register(cls.__name__, kind="sequence_mixer", config=config, source="test")(cls)

    return add


class ByHistory(SequenceMixer):
    """y = mix(x) on one row a document; a subclass writes ``mix`` and ``cost``."""

    config: Any
    causal: ClassVar[bool] = True  # type: ignore[assignment]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.empty(config.width, config.width))
        self.make(config)
        self.reset_parameters()

    def make(self, config: Any) -> None:
        """Parameters besides ``weight``."""

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)

    def mix(self, x: Tensor) -> Tensor:
        return x @ self.weight

    def forward(self, x: Tensor, segments: Tensor | None = None) -> Tensor:
        if segments is None:
            return self.mix(x)
        check(segments, x)
        documents, valid, index = unpack(x, segments)
        return repack(self.mix(documents) if documents.numel() else documents, valid, index, x.shape)

    def cost(self, tokens: int) -> Cost:
        return Cost(matmul=2 * tokens * self.config.width**2)

    def init_state(self, batch: int, max_tokens: int) -> Tensor:
        return self.weight.new_empty((batch, 0, self.config.width))

    def prefill(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        history = torch.cat([state, x], dim=1)
        return self.mix(history)[:, -x.shape[1] :], history

    def state_bytes(self, tokens: int) -> int:
        return tokens * self.config.width * parameter_dtype(self).itemsize


def wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def time(x: Tensor) -> Tensor:
    """(T,) positions of x (B, T, D)."""
    return torch.arange(x.shape[1], device=x.device)


def softmax_attention(x: Tensor, weight: Tensor, allowed: Tensor) -> Tensor:
    """One head, written out: scores x W x', ``allowed`` (T, T), values x."""
    scores = (wide(x) @ wide(weight)) @ wide(x).mT / x.shape[-1] ** 0.5
    return (scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1) @ wide(x)).to(x.dtype)


def dense_attention_cost(tokens: int, width: int) -> Cost:
    """What ``softmax_attention`` executes: every pair, masked or not."""
    return Cost(matmul=2 * tokens * width**2 + 4 * tokens**2 * width)
