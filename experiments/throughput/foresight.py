"""Time and memory that a cell will take, foreseen from shorter lengths.

A process that the system has killed writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from arch_lab.memory import available_memory

MARGIN = 0.9  # of the free memory a cell may be foreseen to take


class Sized(Protocol):
    """A cell as the formulas see it. ``flops``: canonical, None while decoding."""

    @property
    def tokens(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def flops(self) -> float | None: ...


class Measured(Sized, Protocol):
    """A cell of a shorter length; the numbers are None where it was not measured."""

    @property
    def call_seconds(self) -> float | None: ...
    @property
    def peak_bytes(self) -> int | None: ...


def foreseen_seconds(shorter: Sequence[Measured], cell: Sized) -> float | None:
    """Seconds of a call, from the longest shorter length: in proportion to its FLOPs, or to T while decoding.

    ``shorter``: cells of the same arm and series, T ascending.
    """
    last = next((timing for timing in reversed(shorter) if timing.call_seconds), None)
    if last is None or last.call_seconds is None:
        return None
    growth = cell.flops / last.flops if cell.flops and last.flops else cell.tokens / last.tokens
    return float(last.call_seconds * growth)


def foreseen_peak(shorter: Sequence[Measured], cell: Sized) -> float | None:
    """Peak bytes of a call; None where no shorter length has them.

    Those of a sequence grow as they last did, at least in proportion to T.
    """
    peaks = [(timing.tokens, timing.peak_bytes / timing.batch) for timing in shorter if timing.peak_bytes]
    if not peaks:
        return None
    tokens, peak = peaks[-1]
    power = 1.0
    if len(peaks) > 1 and peaks[-2][1] > 0 < peak:
        power = min(2.0, max(1.0, math.log(peak / peaks[-2][1]) / math.log(tokens / peaks[-2][0])))
    return float(cell.batch * peak * (cell.tokens / tokens) ** power)


def free_bytes() -> int | None:
    """Memory a new tensor may still take; None where the system does not tell."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return available_memory()
