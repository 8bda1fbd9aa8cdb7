"""One fit of GLUE: a function of its trial; what is learned, and what no dev label touches."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blocks.errors import UserError
from experiments.glue.batches import TokenRows, collate, encode
from experiments.glue.model import PairClassifier, spread
from tests.experiments.glue.small_glue import Made, accuracy, fit, opened, write

pytest.importorskip("sklearn")


def test_a_fit_is_a_function_of_its_trial_and_leaves_the_generator_alone(made: Made, tmp_path: Path) -> None:
    study = opened(made)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = fit(study, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    fit(study, tmp_path, seed=1)
    again = fit(opened(made), tmp_path)
    assert (one.scores, one.tuned, one.curve) == (again.scores, again.tuned, again.curve)
    assert one.facts["steps"] == 5 and set(one.facts["before"]) == {"cosine_of_strangers", "differing_share"}
    assert one.facts["pretraining_seed"] == 0 and sum(map(sum, one.facts["confusion"]["dev"])) == 30
    assert fit(study, tmp_path, seed=1).curve != one.curve


def test_words_that_decide_the_label_are_learned_on_both_arms(made: Made, tmp_path: Path) -> None:
    study = opened(made, finetuning={"epochs": 12, "batch_size": 8, "max_tokens": 40})
    for arm in ("gemma_encoder", "m2_bert"):
        fitted = fit(study, tmp_path, arm, rate=0.004)
        assert fitted.curve[-1][2] < 0.35 < fitted.curve[0][2]  # nats; ln 2 is chance
        assert accuracy(fitted) >= 0.8


def test_dev_labels_move_the_score_and_nothing_that_is_chosen_by(made: Made, tmp_path: Path) -> None:
    root = shutil.copytree(made[1] / "glue", tmp_path / "other/glue").parent
    lines = (root / "glue/SST-2/dev.tsv").read_text().splitlines()
    flipped = [line[:-1] + str(1 - int(line[-1])) for line in lines[1:]]
    write(root, "SST-2/dev.tsv", [lines[0], *flipped])
    one, other = fit(opened(made), tmp_path), fit(opened((made[0], root)), tmp_path)
    assert accuracy(other) == pytest.approx(1 - accuracy(one)) and other.tuned == one.tuned
    words = [fit(opened((made[0], r)), tmp_path, "tf_idf", rate=None) for r in (made[1], root)]
    assert words[0].facts["strength"] == words[1].facts["strength"] and words[0].tuned == words[1].tuned


def test_a_fresh_body_is_the_same_blocks_with_other_weights(made: Made, tmp_path: Path) -> None:
    study = opened(made, scratch=True)
    assert [m.name for m in study.arms if not m.baseline] == [
        "gemma_encoder",
        "m2_bert",
        "gemma_encoder_scratch",
        "m2_bert_scratch",
    ]
    arm = study.bodies["m2_bert"]
    old, fresh, again, other = (
        arm.body(s, scratch=k) for s, k in ((0, False), (0, True), (0, True), (1, True))
    )
    shapes = [{n: p.shape for n, p in b.named_parameters()} for b in (old, fresh)]
    assert shapes[0] == shapes[1]
    table = [b.model.embedding.words for b in (old, fresh, again, other)]
    assert (
        torch.equal(table[1], table[2])
        and not torch.equal(table[1], table[0])
        and not torch.equal(table[1], table[3])
    )
    assert fit(study, tmp_path, "m2_bert_scratch").facts["pretraining_seed"] is None


def test_a_seed_that_was_not_pretrained_starts_from_the_first_one(made: Made) -> None:
    arm = opened(made).bodies["m2_bert"]
    assert arm.seed(0) == arm.seed(7) == 0 and arm.fingerprint(0) == arm.fingerprint(7)


@pytest.mark.parametrize("pairs", ["joint", "separate"])
@pytest.mark.parametrize("arm", ["gemma_encoder", "m2_bert"])
def test_padding_and_the_order_of_rows_change_no_feature(made: Made, arm: str, pairs: Any) -> None:
    """float32: the order of sums differs with the length, nothing else; features are of order 1."""
    study = opened(made, finetuning={"pairs": pairs})
    body = study.bodies[arm].body(0)
    assert body.tokenizer is not None
    rows = encode(body.tokenizer, ["a cat", "the dog sat"], ["one", "two of us"], max_tokens=40, pairs=pairs)
    model = PairClassifier(body, study.config.finetuning, classes=2, separate=pairs == "separate").eval()
    types = bool(body.types) and pairs == "joint"
    short = collate(rows, np.arange(2), types=types)
    wider = [
        TokenRows(*(v if v is None else torch.nn.functional.pad(v, (0, 48 - v.shape[1])) for v in part))
        for part in short.parts
    ]
    assert all(a.tokens.shape[1] < b.tokens.shape[1] for a, b in zip(short.parts, wider, strict=True))
    long = short._replace(parts=wider)
    torch.testing.assert_close(model.features(long), model.features(short), atol=2e-5, rtol=0)
    turned = model.features(collate(rows, np.array([1, 0]), types=types))
    torch.testing.assert_close(turned.flip(0), model.features(short), atol=2e-5, rtol=0)
    assert model.features(short).shape == (2, body.width * (4 if pairs == "separate" else 1))


def test_vectors_that_do_not_differ_are_told_before_the_first_step(made: Made) -> None:
    study = opened(made)
    body = study.bodies["m2_bert"].body(0)
    assert body.tokenizer is not None
    model = PairClassifier(body, study.config.finetuning, classes=2, separate=False).train()

    def of(*texts: str) -> dict[str, float]:
        assert body.tokenizer is not None
        return spread(
            model, encode(body.tokenizer, texts, None, max_tokens=40, pairs="separate"), types=False
        )

    assert (
        of("the same", "the same", "the same") == {"cosine_of_strangers": 1.0, "differing_share": 0.0}
        and model.training
    )
    found = of("a cat", "seven dogs sat there", "no")
    assert found["cosine_of_strangers"] < 1.0 and 0.0 < found["differing_share"] < 1.0


def test_joint_rows_and_scores_from_0_to_5_are_learned_too(made: Made, tmp_path: Path) -> None:
    recipe = {"pairs": "joint", "epochs": 2, "batch_size": 16, "max_tokens": 48}
    fitted = fit(opened(made, tasks=["stsb"], finetuning=recipe), tmp_path, "m2_bert", "stsb")
    assert set(fitted.scores or {}) == {"spearman", "pearson"} and "confusion" not in fitted.facts
    assert fitted.curve[-1][2] < fitted.curve[0][2]


# --- by way of MNLI --------------------------------------------------------------------------------------------

BY_WAY: dict[str, Any] = {"tasks": ["stsb"], "from_mnli": {"learning_rate": 0.002, "source": "mnli_subset"}}


def test_a_body_passes_through_mnli_once_per_seed_and_leaves_its_head(made: Made, tmp_path: Path) -> None:
    study, path = opened(made, **BY_WAY), tmp_path / "from_mnli/m2_bert_seed-0.pt"
    one = fit(study, tmp_path, task="stsb")
    content = torch.load(path, weights_only=True)
    assert set(content["body"]) == set(study.bodies["m2_bert"].body(0).state_dict())
    assert set(content["scores"]) == {"accuracy"}
    time = path.stat().st_mtime_ns
    assert fit(opened(made, **BY_WAY), tmp_path, task="stsb").curve == one.curve
    assert path.stat().st_mtime_ns == time


def test_a_damaged_body_is_trained_again_to_the_same_bytes(made: Made, tmp_path: Path) -> None:
    study, path = opened(made, **BY_WAY), tmp_path / "from_mnli/m2_bert_seed-0.pt"
    one, content = fit(study, tmp_path, task="stsb"), path.read_bytes()
    path.write_bytes(content[:100])  # cut off by a full disk
    assert fit(study, tmp_path, task="stsb").curve == one.curve and path.read_bytes() == content


def test_a_task_by_way_of_mnli_has_other_numbers_and_another_fingerprint(made: Made, tmp_path: Path) -> None:
    study, plain = opened(made, **BY_WAY), opened(made, tasks=["stsb"])
    assert fit(plain, tmp_path, task="stsb").curve != fit(study, tmp_path, task="stsb").curve
    assert study.fingerprint("stsb") != plain.fingerprint("stsb")


def test_without_the_files_of_mnli_a_study_by_way_of_it_is_refused(made: Made) -> None:
    with pytest.raises(UserError, match=r"no train\.tsv.*MNLI"):
        opened(made, tasks=["stsb"], from_mnli={"learning_rate": 0.002})
