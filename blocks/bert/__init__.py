"""The ends of a BERT-style encoder.

Summed embeddings with a tied output table, and the transform before it.
"""
