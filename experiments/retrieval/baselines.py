"""What an encoder must beat: BM25, and chance.

BM25 is that of the package bm25s (arXiv 2407.03618), Lucene's variant: idf = ln(1 + (N - n + ½) / (n + ½)),
term weight tf / (tf + k1·(1 - b + b·length / mean length)), summed over the words of the query, a word said
twice counting twice.
Words: lower case, two letters or more, its English stop words left out, no stemming. Statistics: of all
documents of the set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from blocks.errors import UserError


class BM25Index:
    """``index(queries, documents)``: scores (Q, N) by id."""

    def __init__(
        self, documents: Mapping[str, str], queries: Mapping[str, str], *, k1: float, b: float
    ) -> None:
        bm25s = bm25s_library()
        self.column = {document: index for index, document in enumerate(documents)}
        self.index = bm25s.BM25(method="lucene", k1=k1, b=b, backend="numpy", csc_backend="numpy")
        self.index.index(self._words(list(documents.values())), show_progress=False)
        self.words = dict(zip(queries, self._words(list(queries.values())), strict=True))

    def __call__(self, queries: list[str], documents: list[str]) -> np.ndarray:
        columns = [self.column[document] for document in documents]
        return np.stack([self.of(query)[columns] for query in queries])

    def of(self, query: str) -> np.ndarray:
        """Scores of all documents; zeros for a query of which no word is known."""
        words = self.index.get_tokens_ids(self.words[query])
        scores: np.ndarray = (
            self.index.get_scores_from_ids(words) if words else np.zeros(len(self.column), np.float32)
        )
        return scores

    def _words(self, texts: list[str]) -> list[list[str]]:
        words: list[list[str]] = bm25s_library().tokenize(
            texts, stopwords="en", return_ids=False, show_progress=False, allow_empty=False
        )
        return words


class Chance:
    """Uniform scores, one draw per (query, document), independent of the other pairs."""

    def __init__(self, documents: Mapping[str, str], queries: Mapping[str, str], *, seed: int) -> None:
        self.column = {document: index for index, document in enumerate(documents)}
        self.row = {query: index for index, query in enumerate(queries)}
        self.seed = seed

    def __call__(self, queries: list[str], documents: list[str]) -> np.ndarray:
        columns = [self.column[document] for document in documents]
        return np.stack(
            [
                np.random.default_rng([self.seed, self.row[query]]).random(len(self.column))[columns]
                for query in queries
            ]
        )


def bm25s_library() -> Any:
    """Raises: UserError when it is not installed."""
    try:
        import bm25s
    except ImportError:
        raise UserError("the BM25 row needs the package bm25s (pip install 'arch-lab[tasks]')") from None
    return bm25s
