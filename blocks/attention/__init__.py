"""Softmax attention: one core (``core.attend``), composed by the registered mixers."""
