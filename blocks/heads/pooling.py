"""What every pooler does first and last: which tokens count, and their average.

Legend: B batch, T tokens, D width.
Poolers read one document a row. Padding is told by a mask and not by a length, so its side does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blocks.contract import BlockConfig
from blocks.errors import ConfigError
from blocks.norm import widened


@dataclass(frozen=True, kw_only=True)
class PoolerConfig(BlockConfig):
    """``width``: D, of the tokens and of the pooled vector."""

    width: int

    def __post_init__(self) -> None:
        self.at_least_one("width")

    def at_least_one(self, *names: str) -> None:
        """Raises: ConfigError naming the first of these options below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ConfigError(f"{type(self).__name__}: {name} must be at least 1, got {getattr(self, name)}")

    def divided_by_heads(self, heads: int) -> None:
        if self.width % heads:
            raise ConfigError(f"{type(self).__name__}: width {self.width} must be a multiple of heads {heads}")


def tokens_of(x: Tensor, valid: Tensor | None) -> Tensor:
    """(B, T) bool, True at tokens. Raises: ConfigError for an empty sequence or a mask of another shape or type."""
    if x.ndim != 3 or x.shape[1] < 1:
        raise ConfigError(f"a pooler reads (batch, at least 1 token, width), got {tuple(x.shape)}")
    if valid is None:
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if valid.dtype != torch.bool or valid.shape != x.shape[:2]:
        shape = tuple(x.shape[:2])
        hint = "; for segments pass segments != 0, one document a row" if valid.dtype != torch.bool else ""
        raise ConfigError(f"valid must be bool of shape {shape}, got {valid.dtype} {tuple(valid.shape)}{hint}")
    return valid


def cleared(x: Tensor, kept: Tensor) -> Tensor:
    """x with zeros where ``kept`` (the leading dimensions of x) is False: a weight of 0 times infinity would be NaN."""
    return x.masked_fill(~kept[..., None], 0)


def average(x: Tensor, kept: Tensor) -> Tensor:
    """Mean over T of the kept tokens, x (B, T, D), kept (B, T) -> (B, D); zeros where none is kept. Summed in float32 or wider."""
    summed = cleared(x, kept).sum(dim=1, dtype=widened(x.dtype))
    return (summed / kept.sum(dim=1, keepdim=True).clamp_min(1)).to(x.dtype)
