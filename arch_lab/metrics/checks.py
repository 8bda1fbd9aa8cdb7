"""What a metric is given, as numpy arrays that are what they claim to be.

Legend: N items. Accepts whatever ``numpy.asarray`` does, and torch tensors of any device and floating type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from blocks.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]


class MetricError(UserError):
    """Predictions and targets that no metric can be taken of."""


def array(values: Any) -> Array:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def labels(values: Any, classes: int, name: str) -> Array:
    """(N,) int64 in 0 … classes - 1, N >= 1. Raises: MetricError naming the first label that is not."""
    column = array(values)
    if column.ndim != 1 or not len(column):
        raise MetricError(f"{name}: expected labels of shape (N,), N at least 1, got {column.shape}")
    if column.dtype.kind == "f" and np.isfinite(column).all() and (column == np.floor(column)).all():
        column = column.astype(np.int64)  # a column read as numbers
    if column.dtype.kind not in "iub":
        raise MetricError(f"{name}: labels must be whole numbers, got {column.dtype}")
    column = column.astype(np.int64)
    wrong = (column < 0) | (column >= classes)
    if wrong.any():
        i = int(wrong.argmax())
        raise MetricError(f"{name}: label {column[i]} at position {i} is not in 0 … {classes - 1}")
    return column


def numbers(values: Any, name: str, *, finite: bool = True) -> Array:
    """(N,) float64, N >= 1. Raises: MetricError, naming the first that is not finite when that is asked."""
    column = array(values)
    if column.ndim != 1 or not len(column):
        raise MetricError(f"{name}: expected numbers of shape (N,), N at least 1, got {column.shape}")
    if column.dtype.kind not in "iubf":
        raise MetricError(f"{name}: expected numbers, got {column.dtype}")
    column = column.astype(np.float64)
    if finite and not np.isfinite(column).all():
        i = int((~np.isfinite(column)).argmax())
        raise MetricError(f"{name}: {column[i]} at position {i} is not a finite number")
    return column


def paired(a: Array, b: Array, names: str) -> None:
    if len(a) != len(b):
        raise MetricError(f"{names}: {len(a)} and {len(b)} items; there must be one of each")
