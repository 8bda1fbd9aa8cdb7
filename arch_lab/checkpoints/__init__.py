"""Checkpoints: one way to open any of them, a score for any of them, a start from any of them."""

from arch_lab.checkpoints.checkpoint import Checkpoint, CheckpointError
from arch_lab.checkpoints.opening import open_checkpoint, open_decoder

__all__ = ["Checkpoint", "CheckpointError", "open_checkpoint", "open_decoder"]
