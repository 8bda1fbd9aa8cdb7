"""Text from a trained decoder: sampling and the decoding loop."""

from arch_lab.generation.decode import Meter, decode
from arch_lab.generation.generate import Generation, generate
from arch_lab.generation.sampling import Sampling, nucleus

__all__ = ["Generation", "Meter", "Sampling", "decode", "generate", "nucleus"]
