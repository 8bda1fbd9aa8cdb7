"""What ``validate``, ``test`` and ``predict`` score: the checkpoint, on the data it was trained on, as ``fit`` and studies score it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from arch_lab import cli
from arch_lab.study.study import read_study
from tests.small_fit import failure_of, scores_of, small_fit
from tests.small_study import small_study

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return small_fit(tmp_path)


@pytest.fixture
def checkpoint(options: list[str], capsys: Capture) -> str:
    return str(scores_of(capsys, "fit", *options, "--trainer.max_steps=6")["checkpoint"])


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_no_verb_scores_a_model_that_no_checkpoint_filled(
    verb: str, options: list[str], capsys: Capture
) -> None:
    assert "give --ckpt_path FILE" in failure_of(capsys, verb)
    assert "give --ckpt_path FILE" in failure_of(capsys, verb, *options)
    assert "names no file" in failure_of(capsys, verb, *options, "--ckpt_path=last")


def test_a_configuration_never_erases_the_checkpoint(options: list[str], capsys: Capture) -> None:
    fit = scores_of(capsys, "fit", *options, "--trainer.max_steps=6")
    config = Path(fit["results"], "config.yaml")
    assert "ckpt_path" not in yaml.safe_load(config.read_text())
    config.write_text(config.read_text() + "ckpt_path: null\n")  # as saved configurations had it
    tuned = {name: value for name, value in fit["scores"].items() if name.startswith("tune/")}
    for arguments in (
        ["--ckpt_path", fit["checkpoint"], "--config", str(config)],
        ["--config", str(config), "--ckpt_path", fit["checkpoint"]],
    ):
        assert scores_of(capsys, "validate", *arguments)["scores"] == tuned


def test_a_checkpoint_named_in_the_configuration_is_used(checkpoint: str, capsys: Capture) -> None:
    Path("score.yaml").write_text(f"ckpt_path: {checkpoint}\n")
    named = scores_of(capsys, "test", "--config", "score.yaml")
    assert named == scores_of(capsys, "test", "--ckpt_path", checkpoint)


def test_fit_and_validate_print_the_same_numbers(options: list[str], capsys: Capture) -> None:
    assert cli.main(["fit", *options, "--trainer.max_steps=6", "--trainer.precision=bf16-mixed"]) == 0
    printed = capsys.readouterr().out.splitlines()
    checkpoint = next(line.partition(": ")[2] for line in printed if line.startswith("checkpoint: "))
    assert cli.main(["validate", "--ckpt_path", checkpoint]) == 0
    assert capsys.readouterr().out.splitlines() == [line for line in printed if line.startswith("tune/")]


def test_a_checkpoint_alone_is_scored_from_any_folder(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    near = scores_of(capsys, "test", "--ckpt_path", checkpoint)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert scores_of(capsys, "test", "--ckpt_path", str(tmp_path / checkpoint)) == near


def test_other_data_options_override_the_checkpoints_with_a_line(checkpoint: str, capsys: Capture) -> None:
    assert cli.main(["validate", "--ckpt_path", checkpoint, "--data.sequence_length=8"]) == 0
    assert "note: data.sequence_length: 8 (the checkpoint was trained with 16)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "part"),
    [
        (["--model.width=32"], "model.width: 32 contradicts the checkpoint, which was trained with 16"),
        (["--data.tokenizer.kind=bpe", "--data.tokenizer.vocabulary=300"], "trained with another tokenizer"),
    ],
)
def test_settings_that_contradict_the_checkpoint_are_refused(
    option: list[str], part: str, checkpoint: str, capsys: Capture
) -> None:
    assert part in failure_of(capsys, "validate", "--ckpt_path", checkpoint, *option)


def test_the_folder_of_a_fit_stands_for_its_checkpoint(checkpoint: str, capsys: Capture) -> None:
    assert scores_of(capsys, "test", "--ckpt_path", "runs/fit/version_0") == scores_of(
        capsys, "test", "--ckpt_path", checkpoint
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"run": 7},
        {"run": {"data": [1]}},
        {
            "run": {
                "data": {"sequence_length": 16, "sorce": "files"},
                "fingerprint": "",
                "precision": "32-true",
            }
        },
        {"run": {"data": {"sequence_length": 16}, "fingerprint": "", "precision": "32-true"}},
        {
            "run": {
                "data": {"source": "files", "sequence_length": "many"},
                "fingerprint": "",
                "precision": "32-true",
            }
        },
        {"run": {"data": {"source": "files", "files": 7}, "fingerprint": "", "precision": "32-true"}},
        {"tokenizer": [1, 2]},
    ],
)
def test_damaged_settings_of_a_checkpoint_are_one_line(
    damage: dict[str, object], checkpoint: str, capsys: Capture
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | damage, "damaged.ckpt")
    failure_of(capsys, "validate", "--ckpt_path", "damaged.ckpt")


def test_predictions_are_those_of_the_checkpoint(checkpoint: str, capsys: Capture) -> None:
    file = scores_of(capsys, "predict", "--ckpt_path", checkpoint)["predictions"]
    nats = torch.cat([batch.flatten() for batch in torch.load(file)])
    perplexity = scores_of(capsys, "test", "--ckpt_path", checkpoint)["scores"]["final/perplexity"]
    assert torch.isfinite(nats).all() and nats.numel() % 16 == 0
    assert nats.mean().exp().item() == pytest.approx(
        perplexity, rel=0.1
    )  # separators and padding are in the mean


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study of one arm."""
    folder = tmp_path_factory.mktemp("study")
    budget = {"params": 6.0e4, "train_flops": 4.0e8, "tolerance": 0.05}
    file = small_study(
        folder, budget=budget, arms=[{"architecture": "gemma3", "options": {"window": 8, "pattern": "LG"}}]
    )
    assert cli.main(["compare", str(file), "--output", str(folder / "runs"), "--quiet"]) == 0
    return folder / "runs/small"


def test_test_repeats_the_held_out_scores_of_a_study(study: Path, capsys: Capture) -> None:
    for run in read_study(study).results:
        (model,) = (study / "runs" / run.arm).glob("*/model.ckpt")
        tested = scores_of(capsys, "test", "--ckpt_path", str(model))["scores"]
        tuned = scores_of(capsys, "validate", "--ckpt_path", str(model))["scores"]
        for name in ("bits_per_byte", "perplexity", "word_perplexity"):
            assert tested[f"final/{name}"] == run.scores[name]
        assert tuned["tune/bits_per_byte"] == run.tuned


def test_a_finished_run_stores_weights_and_no_optimizer(study: Path, capsys: Capture) -> None:
    (model,) = study.glob("runs/*/*/model.ckpt")
    content = torch.load(model, weights_only=True)
    weights = sum(value.nbytes for value in content["state_dict"].values())
    assert model.stat().st_size < 1.3 * weights
    error = failure_of(capsys, "fit", "--ckpt_path", str(model.parent))
    assert "no state of an optimizer" in error and f"--model.initialise_from {model}" in error


def test_a_file_that_lightning_did_not_write_is_named(checkpoint: str, capsys: Capture) -> None:
    content = torch.load(checkpoint, weights_only=True)
    for version in (None, 7, "no version"):
        torch.save(content | {"pytorch-lightning_version": version}, "other.ckpt")
        assert "Lightning did not write this file" in failure_of(
            capsys, "validate", "--ckpt_path", "other.ckpt"
        )


def test_a_checkpoint_without_its_loops_is_one_line(checkpoint: str, capsys: Capture) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"loops": {}}, "other.ckpt")
    error = failure_of(capsys, "validate", "--ckpt_path=other.ckpt")
    assert "lacks what Lightning saves, or is damaged (KeyError('validate_loop'))" in error
