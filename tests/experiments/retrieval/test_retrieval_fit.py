"""One fit of retrieval: a function of its trial, in which judgements of reported queries have no part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from arch_lab.study.body import load_body
from experiments.retrieval.experiment import RetrievalStudy
from experiments.retrieval.scoring import evaluate
from tests.experiments.retrieval.small_retrieval import TASKS, fit, opened


@pytest.mark.parametrize("task", TASKS)
def test_a_fit_is_a_function_of_its_trial_alone_and_moves_with_the_seed(
    task: str, study: RetrievalStudy
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = fit(study, task)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = fit(study, task)
    assert first.scores == again.scores and first.tuned == again.tuned and first.curve == again.curve
    each = study.texts[task]
    if (
        len(each.data.pairs("train")) > each.training.batch_size
    ):  # or every seed has the same pairs in its only batch
        losses = torch.tensor([value for _, _, value in first.curve])
        others = (
            torch.tensor([value for _, _, value in fit(study, task, seed=seed).curve]) for seed in range(1, 8)
        )
        assert any((other - losses).abs().max() > 1e-3 for other in others)
    else:
        assert task == "trec_qa"
    assert (
        first.scores is not None and first.tuned is not None and first.facts["steps"] == len(first.curve) > 0
    )
    assert all(0 <= value <= 1 for value in (*first.scores.values(), first.tuned))


def test_judgements_of_reported_queries_change_neither_training_nor_the_choice(
    world: Path, study: RetrievalStudy
) -> None:
    other = opened(world)
    for task, each in study.texts.items():
        data = each.data
        turned = {q: dict.fromkeys(data.irrelevant(q), 1.0) for q in data.queries["test"]}
        other.texts[task] = replace(each, data=replace(data, relevance={**data.relevance, **turned}))
        a, b = fit(study, task), fit(other, task)
        assert a.curve == b.curve and a.tuned == b.tuned
        assert a.scores != b.scores  # they are what the scores are of


def test_judgements_of_tuning_queries_change_the_choice_and_not_training(
    world: Path, study: RetrievalStudy
) -> None:
    other = opened(world)
    each = study.texts["trec_qa"]
    data = each.data
    turned = {q: dict.fromkeys(data.irrelevant(q), 1.0) for q in data.queries["tune"]}
    other.texts["trec_qa"] = replace(each, data=replace(data, relevance={**data.relevance, **turned}))
    a, b = fit(study, "trec_qa"), fit(other, "trec_qa")
    assert a.curve == b.curve and a.scores == b.scores and a.tuned != b.tuned


def test_training_lowers_the_loss_and_leaves_the_pretrained_run_as_it_was(
    study: RetrievalStudy, world: Path
) -> None:
    longer = opened(world, tasks=["scifact"], training={"epochs": 15})
    files = {path: path.read_bytes() for path in (world / "runs/small/runs").rglob("model.ckpt")}
    losses = [loss for _, _, loss in fit(longer, arm="gemma_encoder").curve]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert len(files) == 2 and all(path.read_bytes() == content for path, content in files.items())


def test_the_pairwise_loss_trains_a_batch_of_one(world: Path) -> None:
    study = opened(
        world, tasks=["trec_qa"], training={"loss": "m2", "batch_size": 1, "negatives": 2, "epochs": 10}
    )
    losses = [loss for _, _, loss in fit(study, "trec_qa").curve]
    assert min(losses) >= -2 and np.mean(losses[-4:]) < np.mean(losses[:4])


def test_a_fit_that_diverges_says_so_and_has_no_scores(study: RetrievalStudy) -> None:
    fitted = fit(study, rate=1e30)
    assert fitted.scores is None and fitted.tuned is None


def test_zero_shot_is_the_pretrained_body_itself(study: RetrievalStudy, world: Path) -> None:
    each = study.texts["scifact"]
    body = load_body(next(arm.first for arm in study.bodies if arm.name == "m2_bert"))

    def vector(text: str, most: int) -> np.ndarray:
        ids = [256, *text.encode()][:most]
        with torch.no_grad():
            states = body(torch.tensor([ids]))[0].mean(dim=0)
        unit: np.ndarray = (states / states.norm()).numpy()
        return unit

    def cosine(queries: list[str], documents: list[str]) -> np.ndarray:
        q = np.stack([vector(each.data.all_queries[query], 24) for query in queries])
        return q @ np.stack([vector(each.data.documents[document], 32) for document in documents]).T

    assert fit(study, arm="m2_bert_zero_shot", rate=None).scores == evaluate(each.data, "test", cosine)
