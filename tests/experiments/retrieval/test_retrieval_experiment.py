"""Retrieval from pretrained encoders to a verdict: same texts and effort for all, nothing of the reported split in training."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import arch_lab
from arch_lab import sealed
from arch_lab.data import ByteTokenizer
from arch_lab.models import Shape, recipe
from arch_lab.study.body import load_body
from arch_lab.study.engine import silent
from arch_lab.study.pretrained import pretrained_arms
from arch_lab.tasks import Cell, Fitted
from blocks.errors import ConfigError, UserError
from experiments.retrieval.baselines import BM25Index, Chance
from experiments.retrieval.config import RetrievalStudyConfig, RetrievalTraining
from experiments.retrieval.encoder import TextEncoder, padded, token_rows
from experiments.retrieval.experiment import EXPERIMENT, PreparedRetrieval, Retrieval
from experiments.retrieval.readers import read_retrieval
from experiments.retrieval.scoring import evaluate, measures_of, unseen
from experiments.retrieval.training import PairLoader, PairOrder
from tests.experiments.retrieval import retrieval_files as made
from tests.small_study import small_study

ARMS = [
    {"architecture": "gemma_encoder", "options": {"radius": 8, "generation_options": {"pattern": "LG"}}},
    {"architecture": "m2_bert", "options": {"filter_order": 16}},
]
TASKS = ["scifact", "cranfield", "trec_qa"]
TRAINING: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 2,
    "query_tokens": 24,
    "document_tokens": 32,
    "negatives": 1,
    "negative_pool": 2,
}
RATE = 0.01


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sets in miniature and a finished masked study ``runs/small``."""
    folder = tmp_path_factory.mktemp("retrieval")
    made.all_sets(folder)
    path = small_study(
        folder,
        experiment="masked",
        arms=ARMS,
        training={"sequence_length": 32, "batch_size": 2, "evaluations": 1},
        budget={"params": 6.0e4, "train_flops": 1.2e9, "tolerance": 0.01},
        objective={"mask_share": 0.3, "evaluation_windows": 4},
    )
    arch_lab.compare(str(path), output=folder / "runs", cache=folder / "cache", quiet=True)
    return folder


def config(world: Path, **changes: Any) -> RetrievalStudyConfig:
    options = {
        "name": "tiny",
        "experiment": "retrieval",
        "tasks": TASKS,
        "root": str(world),
        "pretrained": str(world / "runs/small"),
        "learning_rates": [RATE],
        "seeds": [0],
        "complete": False,
        **changes,
    }
    return RetrievalStudyConfig.from_options(
        {**options, "training": {**TRAINING, **changes.get("training", {})}}
    )


def opened(world: Path, **changes: Any) -> PreparedRetrieval:
    return Retrieval().open(config(world, **changes), world / "cache", lambda line: None)


@pytest.fixture(scope="module")
def prepared(world: Path) -> PreparedRetrieval:
    return opened(world)


def fit(
    prepared: PreparedRetrieval,
    task: str = "scifact",
    method: str = "m2_bert",
    seed: int = 0,
    rate: float | None = RATE,
) -> Fitted:
    return prepared.fit(
        Cell(task=task, method=method, learning_rate=rate, seed=seed), Path("unused"), lambda line: None
    )


# --- a cell ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_fit_is_a_function_of_its_cell_alone_and_moves_with_the_seed(
    task: str, prepared: PreparedRetrieval
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = fit(prepared, task)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = fit(prepared, task)
    assert first.scores == again.scores and first.tuned == again.tuned and first.curve == again.curve
    each = prepared.shown[task]
    if (
        len(each.data.pairs("train")) > each.training.batch_size
    ):  # or every seed has the same pairs in its only batch
        losses = torch.tensor([value for _, _, value in first.curve])
        others = (
            torch.tensor([value for _, _, value in fit(prepared, task, seed=seed).curve])
            for seed in range(1, 8)
        )
        assert any((other - losses).abs().max() > 1e-3 for other in others)
    else:
        assert task == "trec_qa"
    assert (
        first.scores is not None and first.tuned is not None and first.facts["steps"] == len(first.curve) > 0
    )
    assert all(0 <= value <= 1 for value in (*first.scores.values(), first.tuned))


def test_judgements_of_reported_queries_change_neither_training_nor_the_choice(
    world: Path, prepared: PreparedRetrieval
) -> None:
    other = opened(world)
    for task, each in prepared.shown.items():
        data = each.data
        turned = {q: dict.fromkeys(data.irrelevant(q), 1.0) for q in data.queries["test"]}
        other.shown[task] = replace(each, data=replace(data, relevance={**data.relevance, **turned}))
        a, b = fit(prepared, task), fit(other, task)
        assert a.curve == b.curve and a.tuned == b.tuned
        assert a.scores != b.scores  # they are what the scores are of


def test_judgements_of_tuning_queries_change_the_choice_and_not_training(
    world: Path, prepared: PreparedRetrieval
) -> None:
    other = opened(world)
    each = prepared.shown["trec_qa"]
    data = each.data
    turned = {q: dict.fromkeys(data.irrelevant(q), 1.0) for q in data.queries["tune"]}
    other.shown["trec_qa"] = replace(each, data=replace(data, relevance={**data.relevance, **turned}))
    a, b = fit(prepared, "trec_qa"), fit(other, "trec_qa")
    assert a.curve == b.curve and a.scores == b.scores and a.tuned != b.tuned


def test_training_lowers_the_loss_and_leaves_the_pretrained_run_as_it_was(
    prepared: PreparedRetrieval, world: Path
) -> None:
    longer = opened(world, tasks=["scifact"], training={"epochs": 15})
    files = {path: path.read_bytes() for path in (world / "runs/small/runs").rglob("model.ckpt")}
    losses = [loss for _, _, loss in fit(longer, method="gemma_encoder").curve]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert len(files) == 2 and all(path.read_bytes() == content for path, content in files.items())


def test_the_pairwise_loss_trains_a_batch_of_one(world: Path) -> None:
    prepared = opened(
        world, tasks=["trec_qa"], training={"loss": "m2", "batch_size": 1, "negatives": 2, "epochs": 10}
    )
    losses = [loss for _, _, loss in fit(prepared, "trec_qa").curve]
    assert min(losses) >= -2 and np.mean(losses[-4:]) < np.mean(losses[:4])


def test_a_fit_that_diverges_says_so_and_has_no_scores(prepared: PreparedRetrieval) -> None:
    found = fit(prepared, rate=1e30)
    assert found.scores is None and found.tuned is None


def test_zero_shot_is_the_pretrained_body_itself(prepared: PreparedRetrieval, world: Path) -> None:
    each = prepared.shown["scifact"]
    body = load_body(next(arm.first for arm in prepared.arms if arm.name == "m2_bert"))

    def vector(text: str, most: int) -> np.ndarray:
        ids = [256, *text.encode()][:most]
        with torch.no_grad():
            states = body(torch.tensor([ids]))[0].mean(dim=0)
        found: np.ndarray = (states / states.norm()).numpy()
        return found

    def cosine(queries: list[str], documents: list[str]) -> np.ndarray:
        q = np.stack([vector(each.asked[query], 24) for query in queries])
        return q @ np.stack([vector(each.data.documents[document], 32) for document in documents]).T

    assert fit(prepared, method="m2_bert_zero_shot", rate=None).scores == evaluate(each.data, "test", cosine)


# --- what all methods share -----------------------------------------------------------------------------------------


def test_every_method_is_shown_the_same_cut_texts(prepared: PreparedRetrieval) -> None:
    for each in prepared.shown.values():
        for query, text in each.asked.items():
            assert each.queries[query].encode() == text.encode()[:23] and len(each.query_rows[query]) <= 24
        for document, text in each.data.documents.items():
            row = each.document_rows[document]
            assert bytes(row[1:].tolist()) == text.encode()[:31] and row[0] == 256
            assert each.documents[document].encode() == text.encode()[:31]


def test_steps_and_pairs_are_a_function_of_seed_and_step_that_no_arm_enters(
    prepared: PreparedRetrieval,
) -> None:
    each = prepared.shown["scifact"]
    order = PairOrder(each.data, each.training, prepared._pools("scifact"), seed=3)
    again = PairOrder(each.data, each.training, prepared._pools("scifact"), seed=3)
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
    prepared: PreparedRetrieval,
) -> None:
    each = prepared.shown["scifact"]
    order = PairOrder(each.data, each.training, prepared._pools("scifact"), seed=0)
    loader = PairLoader(
        each.data, order, each.training, queries=each.query_rows, documents=each.document_rows
    )
    for step, batch in enumerate(loader):
        queries, positives, negatives = order.step(step)
        wanted = [[d in each.data.relevance[q] for d in (*positives, *negatives)] for q in queries]
        assert batch["relevant"].tolist() == wanted and all(row[at] for at, row in enumerate(wanted))


def test_negatives_are_a_questions_own_candidates_or_what_bm25_ranks_highest(
    world: Path, prepared: PreparedRetrieval
) -> None:
    own = prepared.shown["trec_qa"].data
    assert prepared._pools("trec_qa") == {q: own.irrelevant(q) for q in own.queries["train"]}
    each, pools = prepared.shown["cranfield"], prepared._pools("cranfield")
    index = prepared._index("cranfield", whole=False)
    for query, pool in pools.items():
        rest = [d for d in each.data.irrelevant(query) if d not in pool]
        assert len(pool) == 2 and index([query], pool).min() >= index([query], rest).max()
    drawn = opened(world, training={"negatives_from": "random"})._pools("cranfield")
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


def test_the_flops_of_a_text_are_the_body_less_its_head(world: Path, prepared: PreparedRetrieval) -> None:
    for arm in prepared.arms:
        encoder = TextEncoder(load_body(arm.first))
        entry = arm.entry
        shape = Shape(width=entry["width"], depth=entry["depth"], ffn_width=entry["ffn_width"])
        whole = recipe(entry["architecture"], entry["options"]).model(shape, vocabulary=258, max_tokens=32)
        cost = sum(
            (part.cost.forward(1) for part in whole.components(24) if "head" not in part.name), start=0
        )
        assert encoder.flops(24) == cost
        method = next(m for m in prepared.methods if m.name == arm.name)
        assert method.facts["FLOPs, 24 tokens"] == cost


# --- scores and baselines -------------------------------------------------------------------------------------------


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


def test_bm25_without_its_package_is_one_line(
    world: Path, prepared: PreparedRetrieval, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(UserError, match="needs the package bm25s"):
        opened(world)


def test_chance_is_the_same_for_the_same_seed_and_whatever_is_asked_beside() -> None:
    documents, queries = {str(i): "t" for i in range(9)}, {"x": "t", "y": "t"}
    both = Chance(documents, queries, seed=0)(["x", "y"], list(documents))
    assert np.array_equal(Chance(documents, queries, seed=0)(["y"], ["3", "1"]), both[1:, [3, 1]])
    assert not np.array_equal(Chance(documents, queries, seed=1)(["x", "y"], list(documents)), both)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_what_a_study_may_not_say_is_refused_before_anything_is_read(world: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tasks": ["scifacts"]}, "unknown retrieval set 'scifacts'; did you mean 'scifact'"),
        ({"for_task": {"trec": {}}}, "unknown retrieval set 'trec'"),
        (
            {"for_task": {"trec_qa": {"epoch": 1}}},
            "for_task.trec_qa: unknown option 'epoch'; did you mean 'epochs'",
        ),
        ({"training": {"loss": "m2", "negatives": 0}}, "m2 needs negatives for each query"),
        ({"training": {"batch_size": 1, "negatives": 0}}, "nothing to contrast in a batch of one"),
        ({"training": {"temperature": 0}}, "training.temperature: must be positive"),
        ({"training": {"document_tokens": 1}}, "document_tokens: must be at least 2"),
        (
            {"for_task": {"trec_qa": {"pooler": "max"}}},
            "for_task.trec_qa: pooler belongs to the encoder, which all sets share",
        ),
        ({"arms": []}, "arms: must not be empty"),
        ({"bm25": {"b": 2}}, "bm25.b: must be at most 1, got 2"),
        ({"pretraned": "x"}, "unknown option 'pretraned'; did you mean 'pretrained'"),
    ]
    for changes, message in cases:
        with pytest.raises(ConfigError, match=message):
            config(world, **changes)


def test_what_does_not_fit_together_is_refused_before_anything_is_fitted(world: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"arms": ["m2_brt"]}, "has no arm 'm2_brt'; did you mean 'm2_bert'"),
        ({"training": {"document_tokens": 33}}, "texts of 33 tokens, but gemma_encoder was pretrained on 32"),
        (
            {"training": {"pooler": "attn_query"}},
            "has weights that pretraining did not train; set zero_shot: false",
        ),
        ({"training": {"projection": 8}}, "has weights that pretraining did not train; set zero_shot: false"),
        ({"training": {"pooler": "triplet"}}, "'triplet' is a head, not a pooler"),
        ({"training": {"batch_size": 4}}, "cranfield: 3 training pairs, fewer than training.batch_size 4"),
        ({"pretrained": str(world / "nowhere")}, "not found; run `arch-lab compare` first"),
        ({"root": str(world / "nowhere")}, "none of the sets can be read: no scifact.zip in"),
    ]
    for changes, message in cases:
        with pytest.raises(UserError, match=message):
            opened(world, **changes)


def test_arms_whose_budgets_are_not_matched_are_refused(world: Path, tmp_path: Path) -> None:
    study = json.loads((world / "runs/small/study.json").read_text())
    study["arms"][0]["parameters"]["body"] *= 2
    sealed.write(tmp_path / "study.json", study)
    with pytest.raises(UserError, match="refused"):
        opened(world, pretrained=str(tmp_path))


def test_a_set_that_cannot_be_read_is_left_out_with_its_reason(world: Path, tmp_path: Path) -> None:
    made.trec_qa(tmp_path)
    found = opened(world, root=str(tmp_path))
    assert [task.name for task in found.tasks] == ["trec_qa"]
    assert found.absent["scifact"].startswith("no scifact.zip in")


def test_a_cell_of_other_data_or_other_weights_has_another_fingerprint(
    world: Path, prepared: PreparedRetrieval, tmp_path: Path
) -> None:
    made.all_sets(tmp_path)
    assert opened(world, root=str(tmp_path)).fingerprint("trec_qa") == prepared.fingerprint("trec_qa")
    made.trec_qa(
        tmp_path, train=made.table([("who stood", 1, "a"), ("who stood", 0, "b"), ("who stood", 1, "c")])
    )
    other = opened(world, root=str(tmp_path))
    assert other.fingerprint("trec_qa") != prepared.fingerprint("trec_qa") and other.fingerprint(
        "scifact"
    ) == prepared.fingerprint("scifact")
    assert opened(world, arms=["m2_bert"]).fingerprint("scifact") != prepared.fingerprint("scifact")


# --- a whole study --------------------------------------------------------------------------------------------------


def test_a_study_is_fitted_judged_reported_and_kept(world: Path) -> None:
    options = {
        "experiment": "retrieval",
        "tasks": TASKS,
        "pretrained": str(world / "runs/small"),
        "training": TRAINING,
        "for_task": {"trec_qa": {"negatives": 2}},
        "learning_rates": [RATE],
        "seeds": [0, 1],
        "complete": False,
    }
    path = world / "tiny.yaml"
    path.write_text(yaml.safe_dump(options))
    run = {
        "overrides": [],
        "output": world / "runs",
        "data_root": str(world),
        "threads": None,
        "observer": silent,
    }
    study = EXPERIMENT.compare(str(path), **run)
    rows = {(r["task"], r["method"]) for r in study["rows"]}
    methods = {
        "gemma_encoder",
        "m2_bert",
        "gemma_encoder_zero_shot",
        "m2_bert_zero_shot",
        "bm25",
        "bm25_whole",
        "random",
    }
    assert rows == {(task, method) for task in TASKS for method in methods}
    assert {p["task"] for p in study["pairs"]} == {*TASKS, "average"} and all(
        {p["a"], p["b"]} == {"gemma_encoder", "m2_bert"} for p in study["pairs"]
    )
    assert [task["facts"]["loss"] for task in study["tasks"]] == [
        "nce, 1 negatives",
        "nce, 1 negatives",
        "nce, 2 negatives",
    ]
    assert "trec_qa: a question ranks its own candidates only" in study["notes"]
    page = (world / "runs/tiny/report.html").read_text()
    assert all(
        word in page for word in ("nDCG@10", "MRR@10", "bm25_whole", "FLOPs, 32 tokens", "24 tokens (")
    )
    kept: list[str] = []
    run["observer"] = lambda event, facts: kept.append(event)
    assert EXPERIMENT.compare(str(path), **run)["rows"] == study["rows"]
    assert kept[-1] == "report" and "fit" not in kept
    with pytest.raises(UserError, match=r"finished study with methods .* and would replace its results"):
        EXPERIMENT.compare(str(path), **{**run, "overrides": ["zero_shot=false"]})


def test_the_training_options_of_a_set_are_those_of_the_study_but_for_what_it_changes(world: Path) -> None:
    made_of = config(world, for_task={"trec_qa": {"epochs": 7}}).training_of("trec_qa")
    assert made_of == RetrievalTraining(**{**TRAINING, "epochs": 7})
