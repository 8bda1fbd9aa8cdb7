"""GLUE from a pretrained study to submissions: equal effort, choices that no dev label touches, a kill that costs one cell."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import arch_lab
from arch_lab import sealed
from arch_lab.budget import BudgetError
from arch_lab.checkpoints import CheckpointError
from arch_lab.tasks import Cell
from blocks.errors import ConfigError, UserError
from experiments.glue.batches import collate, encode
from experiments.glue.experiment import Glue, GluePrepared
from experiments.glue.model import PairClassifier, spread
from tests.experiments.glue.small_glue import config, glue_files, options, pretrained, write

pytest.importorskip("sklearn")
Made = tuple[Path, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """(pretrained study, data root)"""
    folder = tmp_path_factory.mktemp("glue")
    return pretrained(folder), glue_files(folder)


def opened(made: Made, **changes: Any) -> GluePrepared:
    return Glue().open(config(*made, **changes), Path("unused"), lambda _: None)


def fit(
    prepared: GluePrepared,
    folder: Path,
    method: str = "m2_bert",
    task: str = "sst2",
    rate: float | None = 0.002,
    seed: int = 0,
) -> Any:
    cell = Cell(task=task, method=method, learning_rate=rate, seed=seed)
    where = cell.folder(folder)
    where.mkdir(parents=True, exist_ok=True)
    return prepared.fit(cell, where, lambda _: None)


def compare(made: Made, folder: Path, **changes: Any) -> dict[str, Any]:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"arms": [], **options(*made, **changes)}), encoding="utf-8")
    return arch_lab.compare(str(path), output=folder / "runs", quiet=True)


# --- the whole study -----------------------------------------------------------------------------------------------------


WHOLE: dict[str, Any] = {
    "tasks": ["sst2", "qqp", "wnli"],
    "learning_rates": [0.002, 0.004],
    "seeds": [0, 1],
    "tuning_seeds": [0],
}


@pytest.fixture(scope="module")
def killed_and_resumed(
    made: Made, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list[str], list[str]]:
    """A study killed in its fourth fit and called again: (folder, study, cells of the first call, of the second)."""
    folder = tmp_path_factory.mktemp("whole")
    calls: list[list[str]] = [[], []]
    original = GluePrepared.fit
    with pytest.MonkeyPatch.context() as patch:

        def first(self: GluePrepared, cell: Cell, where: Path, tell: Any) -> Any:
            calls[0].append(cell.label)
            if len(calls[0]) == 4:
                raise KeyboardInterrupt
            return original(self, cell, where, tell)

        patch.setattr(GluePrepared, "fit", first)
        with pytest.raises(KeyboardInterrupt):
            compare(made, folder, **WHOLE)

        def second(self: GluePrepared, cell: Cell, where: Path, tell: Any) -> Any:
            calls[1].append(cell.label)
            return original(self, cell, where, tell)

        patch.setattr(GluePrepared, "fit", second)
        study = compare(made, folder, **WHOLE)
    return folder / "runs/tiny", study, *calls


def test_a_kill_costs_the_cell_it_struck(killed_and_resumed: Any) -> None:
    _, study, first, second = killed_and_resumed
    assert not set(first[:3]) & set(second) and first[3] == second[0]
    assert len(set(first[:3]) | set(second)) == study["cells"] == len(study["rows"])


def test_every_arm_gets_the_same_grid_and_absent_tasks_are_named(killed_and_resumed: Any) -> None:
    _, study, *_ = killed_and_resumed
    for arm in ("gemma_encoder", "m2_bert"):
        mine = sorted(
            (r["learning_rate"], r["seed"])
            for r in study["rows"]
            if (r["task"], r["method"]) == ("sst2", arm)
        )
        chosen = study["chosen"]["sst2"][arm]
        assert mine == sorted([(0.002, 0), (0.004, 0), (chosen, 1)])
    assert [t["name"] for t in study["tasks"]] == ["sst2", "wnli"] and "no train.tsv" in study["absent"][
        "qqp"
    ]
    assert "80 of 67,349" in study["tasks"][0]["facts"]["incomplete"]
    assert [m["name"] for m in study["methods"] if m["baseline"]] == ["majority", "tf_idf"]
    assert all(r["status"] == "finished" for r in study["rows"])


def test_submissions_hold_the_predictions_of_the_seed_that_tuned_best(killed_and_resumed: Any) -> None:
    folder, study, *_ = killed_and_resumed
    for method in ("gemma_encoder", "m2_bert", "majority", "tf_idf"):
        lines = (folder / f"submission/{method}/WNLI.tsv").read_text().splitlines()
        assert lines[0] == "index\tprediction" and len(lines) == 147
        chosen = study["chosen"]["wnli"].get(method)
        rows = [
            r
            for r in study["rows"]
            if (r["task"], r["method"], r["learning_rate"]) == ("wnli", method, chosen)
        ]
        best = max(rows, key=lambda r: r["tuned"] or 0.0)
        rate = "" if chosen is None else f"lr-{chosen:g}_"
        kept = json.loads(
            (folder / f"runs/wnli/{method}/{rate}seed-{best['seed']}/predictions.json").read_text()
        )
        assert [int(line.split("\t")[1]) for line in lines[1:]] == kept["test"]
        assert not (folder / f"submission/{method}/SST-2.tsv").exists()
    assert any("submission/m2_bert: WNLI.tsv" in line for line in study["notes"])
    assert "submission" in (folder / "report.html").read_text()


# --- one fit -----------------------------------------------------------------------------------------------------------


def test_a_fit_is_a_function_of_its_cell_and_leaves_the_generator_alone(made: Made, tmp_path: Path) -> None:
    prepared = opened(made)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = fit(prepared, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    fit(prepared, tmp_path, seed=1)
    again = fit(opened(made), tmp_path)
    assert (one.scores, one.tuned, one.curve) == (again.scores, again.tuned, again.curve)
    assert one.facts["steps"] == 5 and set(one.facts["before"]) == {"cosine_of_strangers", "differing_share"}
    assert one.facts["pretraining_seed"] == 0 and sum(map(sum, one.facts["confusion"]["dev"])) == 30
    assert fit(prepared, tmp_path, seed=1).curve != one.curve


def test_words_that_decide_the_label_are_learned_on_both_arms(made: Made, tmp_path: Path) -> None:
    prepared = opened(made, finetuning={"epochs": 12, "batch_size": 8, "max_tokens": 40})
    for arm in ("gemma_encoder", "m2_bert"):
        found = fit(prepared, tmp_path, arm, rate=0.004)
        assert found.curve[-1][2] < 0.35 < found.curve[0][2]  # nats; ln 2 is chance
        assert found.scores["accuracy"] >= 0.8


def test_dev_labels_move_the_score_and_nothing_that_is_chosen_by(made: Made, tmp_path: Path) -> None:
    root = shutil.copytree(made[1] / "glue", tmp_path / "other/glue").parent
    lines = (root / "glue/SST-2/dev.tsv").read_text().splitlines()
    flipped = [line[:-1] + str(1 - int(line[-1])) for line in lines[1:]]
    write(root, "SST-2/dev.tsv", [lines[0], *flipped])
    one, other = fit(opened(made), tmp_path), fit(opened((made[0], root)), tmp_path)
    assert other.scores["accuracy"] == pytest.approx(1 - one.scores["accuracy"]) and other.tuned == one.tuned
    words = [fit(opened((made[0], r)), tmp_path, "tf_idf", rate=None) for r in (made[1], root)]
    assert words[0].facts["strength"] == words[1].facts["strength"] and words[0].tuned == words[1].tuned


def test_a_fresh_body_is_the_same_blocks_with_other_weights(made: Made, tmp_path: Path) -> None:
    prepared = opened(made, scratch=True)
    assert [m.name for m in prepared.methods if not m.baseline] == [
        "gemma_encoder",
        "m2_bert",
        "gemma_encoder_scratch",
        "m2_bert_scratch",
    ]
    arm = prepared.arms["m2_bert"]
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
    assert fit(prepared, tmp_path, "m2_bert_scratch").facts["pretraining_seed"] is None


def test_a_seed_that_was_not_pretrained_starts_from_the_first_one(made: Made) -> None:
    arm = opened(made).arms["m2_bert"]
    assert arm.seed(0) == arm.seed(7) == 0 and arm.fingerprint(0) == arm.fingerprint(7)


@pytest.mark.parametrize("pairs", ["joint", "separate"])
@pytest.mark.parametrize("arm", ["gemma_encoder", "m2_bert"])
def test_padding_and_the_order_of_rows_change_no_feature(made: Made, arm: str, pairs: Any) -> None:
    """float32: the order of sums differs with the length, nothing else; features are of order 1."""
    prepared = opened(made, finetuning={"pairs": pairs})
    body = prepared.arms[arm].body(0)
    assert body.tokenizer is not None
    rows = encode(body.tokenizer, ["a cat", "the dog sat"], ["one", "two of us"], max_tokens=40, pairs=pairs)
    model = PairClassifier(body, prepared.config.finetuning, classes=2, separate=pairs == "separate").eval()
    types = bool(body.types) and pairs == "joint"
    short = collate(rows, np.arange(2), types=types)
    wider = [
        {k: torch.nn.functional.pad(v, (0, 48 - v.shape[1])) for k, v in part.items()}
        for part in short["parts"]
    ]
    assert all(
        a["tokens"].shape[1] < b["tokens"].shape[1] for a, b in zip(short["parts"], wider, strict=True)
    )
    long = {**short, "parts": wider}
    torch.testing.assert_close(model.features(long), model.features(short), atol=2e-5, rtol=0)
    turned = model.features(collate(rows, np.array([1, 0]), types=types))
    torch.testing.assert_close(turned.flip(0), model.features(short), atol=2e-5, rtol=0)
    assert model.features(short).shape == (2, body.width * (4 if pairs == "separate" else 1))


def test_vectors_that_do_not_differ_are_told_before_the_first_step(made: Made) -> None:
    prepared = opened(made)
    body = prepared.arms["m2_bert"].body(0)
    assert body.tokenizer is not None
    model = PairClassifier(body, prepared.config.finetuning, classes=2, separate=False).train()

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
    prepared = opened(
        made, tasks=["stsb"], finetuning={"pairs": "joint", "epochs": 2, "batch_size": 16, "max_tokens": 48}
    )
    found = fit(prepared, tmp_path, "m2_bert", "stsb")
    assert (
        set(found.scores) == {"spearman", "pearson"}
        and found.curve[-1][2] < found.curve[0][2]
        and "confusion" not in found.facts
    )


# --- by way of MNLI ------------------------------------------------------------------------------------------------------


def test_bodies_pass_through_mnli_once_and_without_the_head(made: Made, tmp_path: Path) -> None:
    settings = {"tasks": ["stsb"], "from_mnli": {"learning_rate": 0.002, "source": "mnli_subset"}}
    prepared, folder = opened(made, **settings), tmp_path / "study"
    one = fit(prepared, folder, task="stsb")
    kept = folder / "from_mnli/m2_bert_seed-0.pt"
    content = torch.load(kept, weights_only=True)
    assert set(content["body"]) == set(prepared.arms["m2_bert"].body(0).state_dict()) and set(
        content["scores"]
    ) == {"accuracy"}
    stamp = kept.stat().st_mtime_ns
    assert (
        fit(opened(made, **settings), folder, task="stsb").curve == one.curve
        and kept.stat().st_mtime_ns == stamp
    )
    kept.write_bytes(kept.read_bytes()[:100])  # cut off by a full disk: made again, never trusted
    assert fit(prepared, folder, task="stsb").curve == one.curve
    assert fit(opened(made, tasks=["stsb"]), folder, task="stsb").curve != one.curve
    assert prepared.fingerprint("stsb") != opened(made, tasks=["stsb"]).fingerprint("stsb")
    with pytest.raises(UserError, match=r"no train\.tsv.*MNLI"):
        opened(made, tasks=["stsb"], from_mnli={"learning_rate": 0.002})


# --- refusals ------------------------------------------------------------------------------------------------------------


def changed_study(made: Made, folder: Path, change: Any) -> Made:
    study = shutil.copytree(made[0], folder / "study")
    content = json.loads((study / "study.json").read_text())
    change(content)
    sealed.write(study / "study.json", content)
    return study, made[1]


def test_arms_that_do_not_meet_one_budget_are_refused(made: Made, tmp_path: Path) -> None:
    def twice(study: dict[str, Any]) -> None:
        study["arms"][1]["steps"] *= 2

    with pytest.raises(BudgetError, match="m2_bert"):
        opened(changed_study(made, tmp_path, twice))


def test_a_pretraining_that_cannot_be_used_is_named_in_one_line(made: Made, tmp_path: Path) -> None:
    for folder, change, message in (
        (
            "a",
            {"experiment": "perplexity"},
            "is a study of experiment 'perplexity'; this study needs a masked study",
        ),
        (
            "b",
            {"selected": {"gemma_encoder": None, "m2_bert": None}},
            "arm 'gemma_encoder' of .* has no finished run",
        ),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            opened(changed_study(made, tmp_path / folder, lambda study, change=change: study.update(change)))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"nowhere/study\.json not found"):
        opened((tmp_path / "nowhere", made[1]))
    with pytest.raises(ConfigError, match="has no arm 'm2_brt'; did you mean 'm2_bert'"):
        opened(made, arms=["m2_brt"])
    damaged = changed_study(made, tmp_path / "c", lambda study: None)
    weights = next((damaged[0] / "runs/m2_bert").glob("*/model.ckpt"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.ckpt is missing or damaged"):
        opened(damaged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["sts-b"]}, "unknown GLUE task 'sts-b'; did you mean 'stsb'"),
        ({"finetuning": {"pooler": "meen"}}, "unknown block 'meen'; did you mean 'mean'"),
        ({"finetuning": {"pooler": "rms_norm"}}, "'rms_norm' is a norm, not a pooler"),
        ({"finetuning": {"task_epochs": {"mrcp": 2}}}, "unknown task 'mrcp'; did you mean 'mrpc'"),
        ({"finetuning": {"task_epochs": {"mrpc": 0}}}, r"finetuning.task_epochs.mrpc: "),
        ({"finetuning": {"epoch": 2}}, "unknown option 'epoch'; did you mean 'epochs'"),
        ({"finetuning": {"dropout": 1.0}}, "finetuning.dropout: must be below 1, got 1"),
        ({"data": {"incomplete": ["colla"]}}, "unknown GLUE task 'colla'; did you mean 'cola'"),
        ({"from_mnli": {"learning_rate": 0.001, "tasks": ["cola"]}}, "'cola' is not one of rte, mrpc, stsb"),
        ({"arms": ["m2_bert", "m2_bert"]}, "arms: must not repeat"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_fitted(
    made: Made, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        opened(made, **changes)
    assert "\n" not in str(caught.value)
