"""What every operation asks of its inputs before it chooses an implementation."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.errors import ConfigError


def follow_autocast(x: Tensor, *others: Tensor | None) -> tuple[Tensor, ...]:
    """All of them in autocast's dtype where it is on, as ``F.linear`` would take them.

    float64 and complex tensors stay.
    """
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return (x, *others)  # type: ignore[arg-type]
    dtype = torch.get_autocast_dtype(device)
    return tuple(_as_autocast(t, dtype) for t in (x, *others))  # type: ignore[misc]


def _as_autocast(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if t is None or not t.is_floating_point() or t.dtype == torch.float64:
        return t
    return t.to(dtype)


def check_alike(operation: str, x: Tensor, *, same_dtype: bool = True, **others: Tensor | None) -> None:
    """Raises: ConfigError unless every tensor is where x is and, with ``same_dtype``, of its dtype."""
    for name, t in others.items():
        if t is None:
            continue
        if t.device != x.device:
            raise ConfigError(
                f"{operation}: the input is on {x.device}, {name} on {t.device}; move one of them"
            )
        if same_dtype and t.dtype != x.dtype:
            raise ConfigError(f"{operation}: the input is {x.dtype}, {name} {t.dtype}; convert one of them")


def check_rank(operation: str, **tensors: tuple[Tensor | None, str]) -> None:
    """``weight=(weight, "K Q P")``: as many sizes as letters. Raises: ConfigError."""
    for name, (t, letters) in tensors.items():
        if t is not None and t.dim() != len(letters.split()):
            raise ConfigError(
                f"{operation}: {name} is ({letters.replace(' ', ', ')}), "
                f"got a tensor of shape {tuple(t.shape)}"
            )
