"""From a trained causal decoder to something else with its weights: a bidirectional stack, an encoder–decoder."""

from arch_lab.adaptation.bidirectional import Reverse, bidirectional, bidirectional_state, causal
from arch_lab.adaptation.t5gemma import Initialised, initialise

__all__ = ["Initialised", "Reverse", "bidirectional", "bidirectional_state", "causal", "initialise"]
