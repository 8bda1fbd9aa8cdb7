"""Softmax attention: one core (``core.attend``), composed by the registered mixers; ``backend_of`` says what
would run.
"""

from blocks.attention.backends import backend_of

__all__ = ["backend_of"]
