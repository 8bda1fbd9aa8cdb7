"""Checkpoints of every kind: open, score, convert, start a new training."""

from arch_lab.checkpoints.checkpoint import Checkpoint, CheckpointError
from arch_lab.checkpoints.initialise import start_from
from arch_lab.checkpoints.opening import open_checkpoint, open_decoder

__all__ = ["Checkpoint", "CheckpointError", "open_checkpoint", "open_decoder", "start_from"]
