"""Fresh memory that shows: whatever an implementation allocates and does not write is NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor


@contextmanager
def poisoned() -> Iterator[list[int]]:
    """Inside, new tensors of torch.empty, empty_like, empty_strided and Tensor.new_empty hold NaN. Yields the sizes of those made."""
    made: list[int] = []

    def filled(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapper(*args: Any, **kwargs: Any) -> Tensor:
            fresh = allocate(*args, **kwargs)
            made.append(fresh.numel())
            return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (torch, "empty"),
            (torch, "empty_like"),
            (torch, "empty_strided"),
            (Tensor, "new_empty"),
        ):
            patch.setattr(owner, name, filled(getattr(owner, name)))
        yield made
