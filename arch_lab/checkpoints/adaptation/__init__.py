"""Models built from a trained decoder: bidirectional stack, encoder–decoder."""

from arch_lab.checkpoints.adaptation.bidirectional import Reverse, bidirectional, bidirectional_state, causal
from arch_lab.checkpoints.adaptation.t5gemma import Initialised, initialise

__all__ = ["Initialised", "Reverse", "bidirectional", "bidirectional_state", "causal", "initialise"]
