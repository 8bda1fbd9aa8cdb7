"""Retrieval: losses over embeddings of queries and documents."""
