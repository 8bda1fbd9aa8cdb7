"""Timing a peer as it runs without arch-lab: on pages of 4 KB.

arch-lab asks torch for huge pages before it is imported (``THP_MEM_ALLOC_ENABLE``), and that makes any code
with large temporaries faster, the peer's as well. A large block goes back to the system when it is freed, so
each temporary of 32 MiB or more pays a page fault for every 4 KB again. torch reads its switch once a
process; Linux lets a process turn huge pages off and on again at any time (prctl, PR_SET_THP_DISABLE), so
both kinds can be timed in one process, interleaved.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

PR_SET_THP_DISABLE = 41


def on_small_pages(call: Callable[[], Any]) -> Callable[[], Any]:
    """``call`` with huge pages off for what it allocates, and back on afterwards."""

    def wrapped() -> Any:
        _disable(True)
        try:
            return call()
        finally:
            _disable(False)

    return wrapped


def can_switch() -> bool:
    """Whether this process uses huge pages and may turn them off: Linux, and torch's switch set."""
    return os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" and sys.platform == "linux" and _disable(False)


def _disable(off: bool) -> bool:
    return bool(ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, int(off), 0, 0, 0) == 0)
