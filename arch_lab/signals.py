"""SIGTERM as an exception, so that a preempted job ends like an interrupted one.

A signal that asks for the end is raised as ``KeyboardInterrupt(number)``.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def raising_signals() -> Iterator[None]:
    """Raise a signal's exception again where Lightning exits after a signal.

    Inside, that is the signal's exception again.
    """
    try:
        yield
    except SystemExit as end:
        context = end.__context__
        raise (context if isinstance(context, KeyboardInterrupt) else KeyboardInterrupt()) from None


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt(SIGTERM). Elsewhere than in the main thread: no change."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(int(number))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
