"""Measures of a ranking, BM25 and chance."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blocks.errors import UserError
from experiments.retrieval.baselines import BM25Index, Chance
from experiments.retrieval.readers import read_retrieval
from experiments.retrieval.scoring import evaluate, measures_of, unseen
from tests.experiments.retrieval.small_retrieval import TASKS, opened


@pytest.mark.parametrize("task", TASKS)
def test_scores_do_not_move_under_monotone_transforms_or_another_order_of_documents(
    task: str, world: Path
) -> None:
    data = read_retrieval(task, world, complete=False)
    asked = {q: text for split in data.queries.values() for q, text in split.items()}
    chance = Chance(data.documents, asked, seed=1)
    plain = evaluate(data, "test", chance)
    assert evaluate(data, "test", lambda q, d: np.exp(7 * chance(q, d)) - 3) == plain
    mixed = dict(reversed(data.documents.items()))
    candidates = None if data.candidates is None else {q: list(reversed(data.candidates[q])) for q in asked}
    order = list(data.documents)

    def same(queries: list[str], documents: list[str]) -> np.ndarray:
        return chance(queries, order)[:, [order.index(d) for d in documents]]

    assert evaluate(replace(data, documents=mixed, candidates=candidates), "test", same) == pytest.approx(
        plain, rel=1e-12
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_ranking_scores_1_and_a_method_that_ties_everything_gains_nothing(
    task: str, world: Path
) -> None:
    data = read_retrieval(task, world, complete=False)

    def perfect(queries: list[str], documents: list[str]) -> np.ndarray:
        return np.array([[data.relevance[q].get(d, 0.0) for d in documents] for q in queries])

    assert evaluate(data, "test", perfect) == {m.key: 1.0 for m in measures_of(data)}
    flat = evaluate(data, "test", lambda q, d: np.zeros((len(q), len(d))))
    worst = evaluate(data, "test", lambda q, d: -perfect(q, d))
    assert flat == worst


def test_recall_at_100_is_reported_only_where_more_than_100_documents_are_ranked(world: Path) -> None:
    data = read_retrieval("scifact", world, complete=False)
    assert "recall100" not in [m.key for m in measures_of(data)]
    many = replace(data, documents={**data.documents, **{f"more-{i}": "text" for i in range(95)}})
    assert "recall100" in [m.key for m in measures_of(many)]


def test_queries_of_unseen_documents_are_scored_apart_where_some_documents_are_shared(world: Path) -> None:
    data = read_retrieval("scifact", world, complete=False)
    trained = {d for q in data.queries["train"] for d in data.relevance[q]}
    assert unseen(data) == ["claim-3"] and "11" in trained and "16" not in trained

    def knows_only_the_shared(queries: list[str], documents: list[str]) -> np.ndarray:
        return np.array([[float(d == "11") for d in documents] for _ in queries])

    scores = evaluate(data, "test", knows_only_the_shared)
    assert scores["unseen_ndcg10"] < scores["ndcg10"]
    assert "unseen_ndcg10" not in evaluate(data, "tune", knows_only_the_shared)
    apart = replace(data, relevance={**data.relevance, "claim-1": {"16": 1.0}})
    assert len(unseen(apart)) == 2 and "unseen_ndcg10" not in [
        m.key for m in measures_of(apart)
    ]  # it would be the score itself


def test_bm25_is_lucenes_formula_written_out() -> None:
    documents = {"a": "red fox red", "b": "red dog barks loudly", "c": "green frog"}
    index = BM25Index(documents, {"q": "Red red FOX whale", "none": "whale"}, k1=1.2, b=0.75)

    def weight(tf: int, length: int, found: int) -> float:
        return (
            math.log(1 + (3 - found + 0.5) / (found + 0.5)) * tf / (tf + 1.2 * (1 - 0.75 + 0.75 * length / 3))
        )

    wanted = [2 * weight(2, 3, 2) + weight(1, 3, 1), 2 * weight(1, 4, 2), 0.0]
    np.testing.assert_allclose(index(["q"], ["a", "b", "c"])[0], wanted, rtol=1e-6)
    np.testing.assert_allclose(index(["q"], ["c", "a"])[0], [wanted[2], wanted[0]], rtol=1e-6)
    assert not index(["none"], ["a", "b", "c"]).any()


def test_bm25_without_its_package_is_one_line(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(UserError, match="needs the package bm25s"):
        opened(world)


def test_chance_is_the_same_for_the_same_seed_and_whatever_is_asked_beside() -> None:
    documents, queries = {str(i): "t" for i in range(9)}, {"x": "t", "y": "t"}
    both = Chance(documents, queries, seed=0)(["x", "y"], list(documents))
    assert np.array_equal(Chance(documents, queries, seed=0)(["y"], ["3", "1"]), both[1:, [3, 1]])
    assert not np.array_equal(Chance(documents, queries, seed=1)(["x", "y"], list(documents)), both)
