"""Softmax attention: one core (``core.attend``), composed by the registered mixers; ``backend_of`` says what would run."""

from blocks.attention.dispatch import Choice, backend_of

__all__ = ["Choice", "backend_of"]
