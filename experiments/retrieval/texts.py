"""Texts as every arm reads them: cut at the same number of tokens, as ids and as the words of those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from arch_lab.data import DataError, Tokenizer
from arch_lab.stored import Facts
from experiments.retrieval.config import RetrievalTraining
from experiments.retrieval.readers import RetrievalSet


@dataclass(frozen=True, kw_only=True)
class CutTexts:
    """One set: ids -> token ids, and what those say. A query and a document may have the same id."""

    data: RetrievalSet
    training: RetrievalTraining
    query_rows: Mapping[str, np.ndarray]
    document_rows: Mapping[str, np.ndarray]
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    facts: Facts

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens at which queries and documents are cut."""
        return self.training.query_tokens, self.training.document_tokens

    @property
    def scored(self) -> list[str]:
        """The documents that a tuning or a reported query ranks."""
        candidates = self.data.candidates
        if candidates is None:
            return list(self.data.documents)
        ranked = (document for query in self.data.scored_queries for document in candidates[query])
        return list(dict.fromkeys(ranked))


def cut_texts(data: RetrievalSet, training: RetrievalTraining, tokenizer: Tokenizer) -> CutTexts:
    """The set, cut where ``training`` says. Raises: DataError for fewer training pairs than a batch takes."""
    pairs = len(data.pairs("train"))
    if pairs < training.batch_size:
        raise DataError(
            f"{data.name}: {pairs} training pairs, fewer than training.batch_size {training.batch_size}"
        )
    queries = data.all_queries
    document_rows, long_documents = token_rows(
        tokenizer, list(data.documents.values()), max_tokens=training.document_tokens
    )
    query_rows, long_queries = token_rows(tokenizer, list(queries.values()), max_tokens=training.query_tokens)
    facts = {
        "train / tune / reported": " / ".join(str(len(split)) for split in data.queries.values()),
        "pairs": pairs,
        "documents": len(data.documents),
        "ranks": "all" if data.candidates is None else "own candidates",
        "query": f"{training.query_tokens} tokens ({long_queries / len(queries):.0%} cut)",
        "document": f"{training.document_tokens} tokens ({long_documents / len(data.documents):.0%} cut)",
        "loss": f"{training.loss}, {training.negatives} negatives",
    }
    rows_of_documents = dict(zip(data.documents, document_rows, strict=True))
    rows_of_queries = dict(zip(queries, query_rows, strict=True))
    return CutTexts(
        data=data,
        training=training,
        query_rows=rows_of_queries,
        document_rows=rows_of_documents,
        documents={key: tokenizer.decode(row) for key, row in rows_of_documents.items()},
        queries={key: tokenizer.decode(row) for key, row in rows_of_queries.items()},
        facts=facts,
    )


def token_rows(
    tokenizer: Tokenizer, texts: Sequence[str], *, max_tokens: int
) -> tuple[list[np.ndarray], int]:
    """The separator and the ids of each text, ``max_tokens`` tokens in all; and how many texts were cut."""
    ids = tokenizer.encode(texts)
    separator = np.array([tokenizer.separator], np.int64)
    rows = [np.concatenate([separator, tokens[: max_tokens - 1]]) for tokens in ids]
    return rows, sum(len(tokens) > max_tokens - 1 for tokens in ids)
