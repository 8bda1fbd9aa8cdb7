"""Retrieval from pretrained encoders to a verdict, and what it refuses before anything is fitted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from arch_lab import sealed
from arch_lab.study.engine import compare
from arch_lab.study.study import Study
from blocks.errors import ConfigError, UserError
from experiments.retrieval.config import RetrievalTraining
from experiments.retrieval.experiment import RetrievalStudy
from tests.experiments.retrieval import retrieval_files as made
from tests.experiments.retrieval.small_retrieval import RATE, TASKS, TRAINING, config, opened

ENCODERS = {"gemma_encoder", "m2_bert"}
ARMS = ENCODERS | {"gemma_encoder_zero_shot", "m2_bert_zero_shot", "bm25", "bm25_whole", "random"}


@dataclass
class Call:
    """A finished study, and how it is called again."""

    path: Path
    options: dict[str, Any]
    study: Study


@pytest.fixture(scope="module")
def call(world: Path) -> Call:
    content = {
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
    path.write_text(yaml.safe_dump(content))
    options = {"output": world / "runs", "data_root": str(world)}
    return Call(path, options, compare(str(path), **options))


def test_every_arm_is_scored_on_every_set(call: Call) -> None:
    scored = {(record.task, record.arm) for record in call.study.results}
    assert scored == {(task, arm) for task in TASKS for arm in ARMS}


def test_the_verdict_is_about_the_encoders(call: Call) -> None:
    assert {pair.task for pair in call.study.pairs} == {*TASKS, "average"}
    assert all({pair.a, pair.b} == ENCODERS for pair in call.study.pairs)


def test_the_options_of_a_set_and_what_it_ranks_are_named(call: Call) -> None:
    losses = [task.facts["loss"] for task in call.study.tasks]
    assert losses == ["nce, 1 negatives", "nce, 1 negatives", "nce, 2 negatives"]
    assert "trec_qa: a question ranks its own candidates only" in call.study.notes
    assert "FLOPs, 32 tokens" in call.study.arm("m2_bert").facts


def test_a_repeated_study_fits_nothing_again(call: Call) -> None:
    events: list[str] = []
    again = compare(str(call.path), **call.options, observer=lambda event, facts: events.append(event))
    assert again == call.study and "run" not in events


def test_a_study_that_leaves_arms_out_is_refused(call: Call) -> None:
    with pytest.raises(UserError, match=r"finished study with arms .* and would replace its results"):
        compare(str(call.path), **call.options, overrides=["zero_shot=false"])


def test_the_training_options_of_a_set_are_those_of_the_study_but_for_what_it_changes(world: Path) -> None:
    made_of = config(world, for_task={"trec_qa": {"epochs": 7}}).training_of("trec_qa")
    assert made_of == RetrievalTraining(**{**TRAINING, "epochs": 7})


# --- what is refused ----------------------------------------------------------------------------------------


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
    study = opened(world, root=str(tmp_path))
    assert [task.name for task in study.tasks] == ["trec_qa"]
    assert study.absent["scifact"].startswith("no scifact.zip in")


def test_a_trial_of_other_data_or_other_weights_has_another_fingerprint(
    world: Path, study: RetrievalStudy, tmp_path: Path
) -> None:
    made.all_sets(tmp_path)
    assert opened(world, root=str(tmp_path)).fingerprint("trec_qa") == study.fingerprint("trec_qa")
    made.trec_qa(
        tmp_path, train=made.table([("who stood", 1, "a"), ("who stood", 0, "b"), ("who stood", 1, "c")])
    )
    other = opened(world, root=str(tmp_path))
    assert other.fingerprint("trec_qa") != study.fingerprint("trec_qa") and other.fingerprint(
        "scifact"
    ) == study.fingerprint("scifact")
    assert opened(world, arms=["m2_bert"]).fingerprint("scifact") != study.fingerprint("scifact")
