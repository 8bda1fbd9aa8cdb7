"""The ends of a BERT-style encoder: summed embeddings with a tied output table, and the transform before
it.
"""
