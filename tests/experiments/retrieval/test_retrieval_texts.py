"""What all arms of retrieval share: cut texts, pairs and negatives of each step, vectors, FLOPs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from arch_lab.data import ByteTokenizer
from arch_lab.models import recipe
from arch_lab.study.body import load_body
from arch_lab.study.pretrained import pretrained_arms
from experiments.retrieval.encoder import TextEncoder, padded
from experiments.retrieval.experiment import RetrievalStudy
from experiments.retrieval.texts import token_rows
from experiments.retrieval.training import PairLoader, PairOrder
from tests.experiments.retrieval.small_retrieval import opened


def test_every_arm_reads_the_same_cut_texts(study: RetrievalStudy) -> None:
    for each in study.texts.values():
        for query, text in each.data.all_queries.items():
            assert each.queries[query].encode() == text.encode()[:23] and len(each.query_rows[query]) <= 24
        for document, text in each.data.documents.items():
            row = each.document_rows[document]
            assert bytes(row[1:].tolist()) == text.encode()[:31] and row[0] == 256
            assert each.documents[document].encode() == text.encode()[:31]


def test_steps_and_pairs_are_a_function_of_seed_and_step_that_no_arm_enters(
    study: RetrievalStudy,
) -> None:
    each = study.texts["scifact"]
    order = PairOrder(each.data, each.training, study.pools("scifact"), seed=3)
    again = PairOrder(each.data, each.training, study.pools("scifact"), seed=3)
    steps = [order.step(step) for step in range(order.steps)]
    assert [again.step(step) for step in reversed(range(order.steps))] == steps[::-1]
    assert steps != [
        PairOrder(each.data, each.training, order.pools, seed=4).step(step) for step in range(order.steps)
    ]
    epoch = steps[: order.steps_per_epoch]
    pairs = [pair for queries, positives, _ in epoch for pair in zip(queries, positives, strict=True)]
    assert len(set(pairs)) == len(pairs) and set(pairs) <= set(each.data.pairs("train"))
    for queries, _, negatives in steps:
        assert all(d not in each.data.relevance[q] for q, d in zip(queries, negatives, strict=True))


def test_a_document_relevant_to_a_query_is_marked_wherever_it_stands_in_a_batch(
    study: RetrievalStudy,
) -> None:
    each = study.texts["scifact"]
    order = PairOrder(each.data, each.training, study.pools("scifact"), seed=0)
    loader = PairLoader(each, order)
    for step, batch in enumerate(loader):
        queries, positives, negatives = order.step(step)
        wanted = [[d in each.data.relevance[q] for d in (*positives, *negatives)] for q in queries]
        assert batch.relevant.tolist() == wanted and all(row[at] for at, row in enumerate(wanted))


def test_negatives_are_a_questions_own_candidates_or_what_bm25_ranks_highest(
    world: Path, study: RetrievalStudy
) -> None:
    own = study.texts["trec_qa"].data
    assert study.pools("trec_qa") == {q: own.irrelevant(q) for q in own.queries["train"]}
    each, pools = study.texts["cranfield"], study.pools("cranfield")
    index = study.index("cranfield", whole=False)
    for query, pool in pools.items():
        rest = [d for d in each.data.irrelevant(query) if d not in pool]
        assert len(pool) == 2 and index([query], pool).min() >= index([query], rest).max()
    drawn = opened(world, training={"negatives_from": "random"}).pools("cranfield")
    assert drawn == {q: each.data.irrelevant(q) for q in each.data.queries["train"]}


@pytest.mark.parametrize("architecture", ["m2_bert", "gemma_encoder"])
def test_a_vector_depends_neither_on_padding_nor_on_the_texts_beside_it(
    architecture: str, world: Path
) -> None:
    encoder = TextEncoder(
        load_body(pretrained_arms(world / "runs/small", [architecture])[architecture].first), projection=8
    )
    texts = ["short", "a longer text than that", "no", "one that is cut because it is far too long"]
    rows, cut = token_rows(ByteTokenizer(), texts, max_tokens=27)
    together = encoder.encode(rows, max_tokens=27)
    assert cut == 1 and together.shape == (4, 8) and together.dtype == np.float32
    alone = np.concatenate([encoder.encode([row], max_tokens=27) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    tokens, segments = padded(rows[:1], max_tokens=27)
    assert tokens.shape == (1, 8) and segments is not None and segments.sum() == 6
    assert padded(rows[3:], max_tokens=27)[1] is None


def test_the_flops_of_a_text_are_the_body_less_its_head(study: RetrievalStudy) -> None:
    for arm in study.bodies:
        encoder = TextEncoder(load_body(arm.first))
        planned = arm.planned
        whole = recipe(planned.architecture, planned.options).model(
            planned.shape, vocabulary=258, max_tokens=32
        )
        cost = sum(
            (part.cost.forward(1) for part in whole.components(24) if "head" not in part.name), start=0
        )
        assert encoder.flops(24) == cost
        assert study.arm(arm.name).facts["FLOPs, 24 tokens"] == cost
