"""Poolers (one vector per sequence) and heads (logits, numbers, probabilities)."""
