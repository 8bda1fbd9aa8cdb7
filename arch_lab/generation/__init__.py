"""Text from a trained decoder: checkpoints of every kind, sampling, the decoding loop."""

from arch_lab.checkpoints import Checkpoint, CheckpointError, open_checkpoint
from arch_lab.generation.decode import Meter, decode
from arch_lab.generation.generate import Generation, generate
from arch_lab.generation.sampling import Sampling, nucleus

__all__ = ["Checkpoint", "CheckpointError", "Generation", "Meter", "Sampling", "decode", "generate", "nucleus", "open_checkpoint"]
