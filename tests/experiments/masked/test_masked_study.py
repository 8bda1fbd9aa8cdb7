"""A masked study from file to verdict, and what becomes of its weights: the engine treats encoders as it treats decoders."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import arch_lab
from arch_lab.budget import BudgetError
from arch_lab.files import OutputError
from arch_lab.laws import LeakError
from arch_lab.models import recipe
from arch_lab.report.rates import write_rates
from arch_lab.study.study import Study, read_study
from blocks.errors import ConfigError, UserError
from tests.small_study import small_study

ARMS = [
    {"architecture": "gemma_encoder", "options": {"radius": 8, "generation_options": {"pattern": "LG"}}},
    {"architecture": "m2_bert", "options": {"filter_order": 16}},
]
TRAINING = {"sequence_length": 32, "batch_size": 2, "evaluations": 2}
BUDGET = {"params": 6.0e4, "train_flops": 1.5e9, "tolerance": 0.01}
Compared = tuple[Path, Study]
SCORES = ("masked_bits", "masked_perplexity", "masked_accuracy")


def masked_study(folder: Path, **changes: Any) -> Path:
    objective = {"mask_share": 0.3, "evaluation_windows": 40}
    return small_study(
        folder,
        **{
            "experiment": "masked",
            "arms": ARMS,
            "training": TRAINING,
            "budget": BUDGET,
            "objective": objective,
            **changes,
        },
    )


def compare(path: Path, folder: Path, **options: Any) -> Study:
    return arch_lab.compare(str(path), output=folder / "runs", cache=folder / "cache", quiet=True, **options)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = tmp_path_factory.mktemp("masked")
    return folder, compare(masked_study(folder, seeds=[0, 1]), folder)


def scores(study: Study) -> dict[tuple[str, int], tuple[Any, ...]]:
    return {(r.arm, r.seed): (r.tuned, r.scores) for r in study.results}


def test_a_masked_study_is_planned_matched_trained_and_judged(compared: Compared) -> None:
    folder, study = compared
    assert read_study(folder / "runs/small") == study
    assert study.matched and study.vocabulary == 258 and study.objective["mask_share"] == 0.3
    for arm in study.arms:
        built = recipe(arm.architecture, arm.options).model(arm.shape, vocabulary=258, max_tokens=32)
        assert arm.parameters["total"] == sum(p.numel() for p in built.parameters())
        assert arm.parameters["body"] + arm.parameters["head"] == pytest.approx(60_000, rel=0.01)
        assert arm.train_flops == pytest.approx(1.5e9, rel=0.01) and arm.state_bytes == 0
    assert [b.name for b in study.baselines] == ["unigram", "bigram"]
    for run in study.results:
        bits, perplexity, accuracy = (run.scores[key] for key in SCORES)
        assert run.status == "finished" and math.isfinite(run.tuned)
        assert perplexity == pytest.approx(2**bits, rel=1e-4) and 0 <= accuracy <= 1
        assert bits < math.log2(258)
    text = study.verdict.text
    assert "bits per masked token" in text and "bits per byte" not in text


def test_the_report_speaks_of_masked_tokens_and_not_of_bytes(compared: Compared) -> None:
    study = compared[0] / "runs/small"
    page = (study / "report.html").read_text()
    for words in (
        "bits per masked token",
        "masked perplexity",
        "masked accuracy ↑",
        "tuning bits per masked token",
    ):
        assert words in page
    assert "bits per byte" not in page and "word perplexity" not in page
    head = (study / "results.csv").read_text().splitlines()[0].split(",")
    assert {*SCORES, "tuned"} <= set(head) and "bits_per_byte" not in head
    for arm in ("gemma_encoder", "m2_bert"):
        certificate = json.loads((study / f"certificates/{arm}.json").read_text())
        assert (
            certificate["passed"] is True
            and certificate["kind"] == "objective"
            and certificate["leak_ratio"] < 1e-9
        )


def test_tensorboard_gets_the_masked_scores(compared: Compared) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(compared[0] / "runs/small/runs/m2_bert/lr-0.004_seed-0"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {
        "train/loss",
        "tune/masked_bits",
        "tune/masked_bits_by_tokens",
        "final/masked_bits",
        "final/masked_accuracy",
    } <= tags


def test_a_second_call_keeps_every_run_and_a_changed_objective_is_refused(
    compared: Compared,
) -> None:
    folder, first = compared
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs/small/runs").rglob("result.json")}
    assert scores(compare(folder / "small.yaml", folder)) == scores(first)
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "runs/small/runs").rglob("result.json")}
    with pytest.raises(OutputError, match=r"another configuration \(objective.mask_share changed\)"):
        compare(folder / "small.yaml", folder, overrides=["objective.mask_share=0.15"])


@pytest.mark.slow
def test_a_run_that_breaks_off_resumes_to_the_scores_of_an_uninterrupted_one(
    compared: Compared, tmp_path: Path
) -> None:
    path = masked_study(tmp_path, training={**TRAINING, "checkpoint_seconds": 1e-6})

    class Cut(Exception):
        pass

    def cut(event: str, facts: dict[str, Any]) -> None:
        if (
            event == "step"
            and facts["label"] == "m2_bert lr 0.004 seed 0"
            and facts["step"] == facts["steps"] // 2
        ):
            raise Cut

    with pytest.raises(Cut):
        compare(path, tmp_path, observer=cut)
    broken = tmp_path / "runs/small/runs/m2_bert/lr-0.004_seed-0"
    assert (broken / "last.ckpt").is_file() and not (broken / "result.json").exists()
    assert scores(compare(path, tmp_path)) == {
        run: found for run, found in scores(compared[1]).items() if run[1] == 0
    }


def test_an_unmatched_budget_is_refused(tmp_path: Path) -> None:
    fixed = [{**ARMS[0], "shape": {"width": 32, "depth": 2, "ffn_width": 64}}, ARMS[1]]
    with pytest.raises(
        BudgetError, match=r"refused: arm 'm2_bert' is \+\d+.* off arm 'gemma_encoder' on params"
    ):
        arch_lab.plan(str(masked_study(tmp_path, arms=fixed)))
    with pytest.raises(BudgetError, match="no shape of 'm2_bert' has 100 parameters"):
        arch_lab.plan(str(masked_study(tmp_path, arms=ARMS[1:])), overrides=["budget.params=100"])


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        (
            {"architecture": "gemma3"},
            "'gemma3' is a causal decoder.*choose an encoder: custom_encoder, gemma_encoder, m2_bert",
        ),
        ({"architecture": "t5gemma"}, "'t5gemma' is an encoder–decoder.*choose an encoder"),
        (
            {"architecture": "custom_encoder", "options": {"mixer": "token_shift_of_nobody"}},
            "token_shift_of_nobody",
        ),
        (
            {"architecture": "custom_encoder", "options": {"mixer": "geglu"}},
            "'custom_encoder': block 'geglu' is a channel_mixer",
        ),
    ],
)
def test_what_is_no_encoder_is_refused_by_name(arm: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, UserError), match=said):
        arch_lab.plan(str(masked_study(tmp_path, arms=[arm])))


def test_options_of_the_objective_are_strict_and_reach_the_plan(tmp_path: Path) -> None:
    path = str(masked_study(tmp_path))
    assert arch_lab.plan(path, overrides=["objective.mask_share=0.15"]).objective["mask_share"] == 0.15
    with pytest.raises(
        ConfigError, match=r"study 'small'.objective: unknown option 'mask_shar'; did you mean 'mask_share'"
    ):
        arch_lab.plan(path, overrides=["objective.mask_shar=0.15"])
    with pytest.raises(ConfigError, match="unknown option 'mask_share'"):
        arch_lab.plan(str(small_study(tmp_path, name="causal", objective={"mask_share": 0.15})))


def test_a_bidirectional_mixer_of_a_users_stands_in_the_comparison(tmp_path: Path) -> None:
    arms = [
        {
            "architecture": "custom_encoder",
            "name": "m2",
            "options": {"mixer": "m2_mixer", "channel": "block_diagonal_glu"},
        },
        {
            "architecture": "custom_encoder",
            "name": "attention",
            "options": {"mixer": "gemma3_attention", "mixer_options": {"heads": 2}},
        },
    ]
    plan = arch_lab.plan(str(masked_study(tmp_path, arms=arms, budget={**BUDGET, "train_flops": 4.0e9})))
    assert plan.matched and [arm.name for arm in plan.arms] == ["m2", "attention"]
    with pytest.raises(ConfigError, match=r"an encoder reads in both directions, but .* is causal"):
        arch_lab.plan(
            str(
                masked_study(
                    tmp_path,
                    arms=[{**arms[0], "options": {"mixer": "m2_mixer", "mixer_options": {"causal": True}}}],
                )
            )
        )


def test_a_mixer_that_leaks_between_rows_gets_no_metric(tmp_path: Path) -> None:
    arms = [
        {
            "architecture": "custom_encoder",
            "name": "leaky",
            "options": {"mixer": "tests.experiments.masked.leaky_mixers:BatchCentred"},
        }
    ]
    with pytest.raises(
        LeakError, match="refused: arm 'leaky': logits of a row depend on the other rows of a batch"
    ):
        compare(masked_study(tmp_path, arms=arms), tmp_path)
    assert {p.name for p in (tmp_path / "runs").rglob("*") if p.is_file()} == {
        "study.yaml",
        "plan.json",
        "leaky.json",
    }


# --- what becomes of the weights ------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("arm", ["m2_bert", "gemma_encoder"])
def test_the_body_of_a_run_is_the_run_bit_for_bit(compared: Compared, arm: str) -> None:
    folder = compared[0] / f"runs/small/runs/{arm}/lr-0.004_seed-1"
    run, body, whole = (
        arch_lab.load(folder),
        arch_lab.load_body(folder),
        arch_lab.load_body(folder, head=True),
    )
    tokens = torch.from_numpy(body.tokenizer.encode(["hidden states before and after"])[0])[None]
    segments = torch.ones_like(tokens)
    segments[:, -4:] = 0
    states = run.model.hidden(tokens, segments)  # type: ignore[union-attr, operator]
    assert states.shape == (1, 30, body.width) and torch.equal(body(tokens, segments), states)
    assert torch.equal(whole(tokens, segments), states) and torch.equal(
        whole.logits(tokens), run.model(tokens)
    )
    kept = torch.load(folder / "model.ckpt", weights_only=True)["state_dict"]
    for name, parameter in body.named_parameters():
        assert torch.equal(parameter, kept[name]), name
    assert (
        body.tokenizer.mask == 257 and body.causal is False and body.types == (2 if arm == "m2_bert" else 0)
    )
    with pytest.raises(ConfigError, match="without its head"):
        body.logits(tokens)
    if arm == "gemma_encoder":
        with pytest.raises(ConfigError, match="no table of sentence types"):
            body(tokens, types=torch.zeros_like(tokens))


@pytest.mark.parametrize("arm", ["m2_bert", "gemma_encoder"])
def test_every_parameter_of_a_body_learns(compared: Compared, arm: str) -> None:
    body = arch_lab.load_body(compared[0] / f"runs/small/runs/{arm}/lr-0.004_seed-0")
    tokens = torch.arange(24)[None]
    types = torch.tensor([[0] * 12 + [1] * 12]) if body.types else None
    body(tokens, types=types).square().sum().backward()
    assert all(p.grad is not None for p in body.parameters())


def test_nobody_generates_text_from_an_encoder(compared: Compared) -> None:
    with pytest.raises(UserError, match=r"'gemma_encoder' is a bidirectional encoder"):
        arch_lab.generate(compared[0] / "runs/small/runs/gemma_encoder/lr-0.004_seed-0", "Import")


# --- curves over the learning-rate grid -----------------------------------------------------------------------------


def test_curves_are_one_small_file_and_the_same_each_time(compared: Compared, tmp_path: Path) -> None:
    folder, study = compared[0] / "runs/small", compared[1]
    first, again = (write_rates(folder, study, tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == again and first.startswith(b"<?xml") and len(first) < 60_000
    text = first.decode()
    for words in ("gemma_encoder", "m2_bert", "training loss", "tuning bits per masked token", "0.004"):
        assert words in text
    one = write_rates(folder, study, tmp_path / "one.svg", ["m2_bert"]).read_text()
    assert "gemma_encoder" not in one
    with pytest.raises(UserError, match="has no arm 'gemma'; it has gemma_encoder, m2_bert"):
        write_rates(folder, study, tmp_path / "c.svg", ["gemma"])


def test_a_run_that_diverged_is_drawn_to_where_it_broke_off(compared: Compared, tmp_path: Path) -> None:
    folder, study = compared[0] / "runs/small", compared[1]
    records = [
        replace(r, status="diverged") if (r.arm, r.seed) == ("m2_bert", 1) else r for r in study.results
    ]
    lost = replace(study, results=tuple(records))
    assert "stroke-dasharray" in write_rates(folder, lost, tmp_path / "lost.svg").read_text()
    assert "stroke-dasharray" not in write_rates(folder, study, tmp_path / "kept.svg").read_text()
