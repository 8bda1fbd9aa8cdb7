"""Initial values that several blocks draw."""

from __future__ import annotations

from torch import Tensor, nn


def fan_in_uniform_(weight: Tensor, fan: int) -> None:
    """U(-1/sqrt(fan), 1/sqrt(fan)): what the released layers and torch's own linear maps draw."""
    nn.init.uniform_(weight, -(fan**-0.5), fan**-0.5)
