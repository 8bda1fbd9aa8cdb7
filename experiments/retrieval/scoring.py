"""Measures of a ranking, query by query.

Exhaustive, ties broken against the method (arch_lab.metrics.ranking).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from arch_lab.judge.measures import Measure
from arch_lab.metrics import ndcg, recall, reciprocal_rank
from experiments.retrieval.readers import RetrievalSet

NDCG = Measure(key="ndcg10", name="nDCG@10", short="nDCG@10 ↑", higher_is_better=True)
MEASURES = (
    NDCG,
    Measure(key="mrr10", name="MRR@10", short="MRR@10 ↑", higher_is_better=True),
    Measure(key="recall10", name="recall@10", short="recall@10 ↑", higher_is_better=True),
    Measure(key="recall100", name="recall@100", short="recall@100 ↑", higher_is_better=True),
)
# where documents are shared between splits, a score over all queries also rewards remembering them
UNSEEN = Measure(
    key="unseen_ndcg10", name="nDCG@10, unseen documents", short="unseen\nnDCG@10 ↑", higher_is_better=True
)
VALUES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "ndcg10": lambda scores, relevance: ndcg(scores, relevance, 10),
    "mrr10": lambda scores, relevance: reciprocal_rank(scores, relevance, 10),
    "recall10": lambda scores, relevance: recall(scores, relevance, 10),
    "recall100": lambda scores, relevance: recall(scores, relevance, 100),
}
Scorer = Callable[[list[str], list[str]], np.ndarray]  # queries, documents -> scores (Q, N), more is better


def measures_of(data: RetrievalSet) -> tuple[Measure, ...]:
    """The informative measures: recall@100 is 1 where fewer candidates are ranked."""
    fewest_candidates = min(len(data.ranked(query)) for query in data.reported_queries)
    shared = data.candidates is None and 0 < len(unseen(data)) < len(data.reported_queries)
    return (*(MEASURES if fewest_candidates > 100 else MEASURES[:3]), *((UNSEEN,) if shared else ()))


def unseen(data: RetrievalSet) -> list[str]:
    """Reported queries none of whose relevant documents is relevant to a training query."""
    trained = {document for query in data.training_queries for document in data.relevance[query]}
    return [query for query in data.reported_queries if not trained & data.relevance[query].keys()]


def evaluate(data: RetrievalSet, split: str, scorer: Scorer) -> dict[str, float]:
    """Mean over the queries of a split, each ranking all documents or its candidates."""
    queries = list(data.queries[split])
    keys = [measure.key for measure in measures_of(data) if measure is not UNSEEN]
    if data.candidates is None:
        documents = list(data.documents)
        column = {document: index for index, document in enumerate(documents)}
        scores = scorer(queries, documents)
        relevance = np.zeros((len(queries), len(documents)))
        for row, query in enumerate(queries):
            for document, grade in data.relevance[query].items():
                relevance[row, column[document]] = grade
        means = {key: VALUES[key](scores, relevance) for key in keys}
        if split == "test" and UNSEEN in measures_of(data):
            few = set(unseen(data))
            rows = [row for row, query in enumerate(queries) if query in few]
            means[UNSEEN.key] = ndcg(scores[rows], relevance[rows], 10)
        return means
    values_by_key: dict[str, list[float]] = {key: [] for key in keys}
    for query in queries:
        documents = list(data.candidates[query])
        scores = scorer([query], documents)
        relevance = np.array([[data.relevance[query].get(document, 0.0) for document in documents]])
        for key, values in values_by_key.items():
            values.append(VALUES[key](scores, relevance))
    return {key: float(np.mean(values)) for key, values in values_by_key.items()}
