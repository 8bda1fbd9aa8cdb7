"""Softmax attention: one core (``core.attend``) that the registered mixers share."""

from blocks.attention.backends import backend_of

__all__ = ["backend_of"]
