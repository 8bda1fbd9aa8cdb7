"""Readers of the sets that studies of triplets learn from."""
