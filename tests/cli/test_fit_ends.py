"""``fit`` ends when either limit is reached, with a score and a checkpoint of its last step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from arch_lab import cli
from blocks.groups import TIED_EMBEDDING
from tests.small_fit import scores_of, small_fit

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return small_fit(tmp_path)


def schedule(checkpoint: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return content


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        (["--trainer.max_steps=9", "--data.steps=4"], 4),
        (["--trainer.max_steps=4", "--data.steps=9"], 4),
        (["--trainer.max_steps=5"], 5),
        (["--data.steps=3"], 3),
        (["--trainer.max_epochs=1", "--trainer.max_steps=6"], 6),
        (["--trainer.max_steps=3", "--trainer.accumulate_grad_batches=2"], 3),
        (["--trainer.max_steps=5", "--trainer.val_check_interval=2"], 5),
        (["--trainer.max_steps=5", "--trainer.limit_train_batches=2"], 5),
    ],
)
def test_a_fit_ends_at_the_lower_limit_scored_and_saved(
    options: list[str], limits: list[str], steps: int, capsys: Capture
) -> None:
    result = scores_of(capsys, "fit", *options, *limits)
    assert result["steps"] == steps and "tune/bits_per_byte" in result["scores"]
    assert schedule(result["checkpoint"])["global_step"] == steps
    again = scores_of(capsys, "validate", "--ckpt_path", result["checkpoint"])["scores"]
    assert again == {name: result["scores"][name] for name in again}


def test_the_learning_rate_ends_its_schedule_at_the_last_step(options: list[str], capsys: Capture) -> None:
    result = scores_of(
        capsys, "fit", *options, "--trainer.max_steps=8", "--data.steps=99", "--model.final_fraction=0.25"
    )
    (scheduler,) = schedule(result["checkpoint"])["lr_schedulers"]
    assert scheduler["base_lrs"] == pytest.approx([2e-3, 2e-3, TIED_EMBEDDING.rate * 2e-3])
    assert scheduler["_last_lr"] == [pytest.approx(0.25 * rate) for rate in scheduler["base_lrs"]]


def test_one_epoch_is_one_pass_over_the_training_text(options: list[str], capsys: Capture) -> None:
    result = scores_of(capsys, "fit", *options, "--trainer.max_epochs=1", "--data.batch_size=64")
    tokens = (
        sum(len(line) for line in Path("train.jsonl").read_text().splitlines())
        - 200 * len('{"text": ""}')
        + 200
    )
    assert result["steps"] == pytest.approx(
        0.95 * tokens / 16 / 64, abs=1
    )  # 5 % of the text is the tuning split


def test_the_learning_rate_finder_ends_with_its_default_of_100_steps(
    options: list[str], capsys: Capture
) -> None:
    result = scores_of(
        capsys, "fit", *options, "--trainer.max_steps=4", "--trainer.callbacks=LearningRateFinder"
    )
    content = schedule(result["checkpoint"])
    rate = content["hyper_parameters"]["learning_rate"]
    assert result["steps"] == 4 and rate != 2e-3
    matrices, gains, table = content["lr_schedulers"][0]["base_lrs"]
    assert (matrices, gains) == (rate, rate) and table == pytest.approx(TIED_EMBEDDING.rate * rate)


def test_early_stopping_stops_where_the_tuning_split_no_longer_improves(
    options: list[str], capsys: Capture
) -> None:
    stopping = [
        "--trainer.callbacks=EarlyStopping",
        "--trainer.callbacks.monitor=tune/bits_per_byte",
        "--trainer.callbacks.patience=1",
    ]
    worse = ["--trainer.callbacks.mode=max", "--trainer.val_check_interval=2", "--trainer.max_steps=20"]
    result = scores_of(capsys, "fit", *options, *stopping, *worse)
    assert result["steps"] == 4  # scored at 2 and, lower, at 4


def test_early_stopping_that_cannot_act_says_what_it_needs(options: list[str], capsys: Capture) -> None:
    stopping = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=tune/bits_per_byte"]
    assert cli.main(["fit", *options, *stopping, "--trainer.max_steps=2"]) == 0
    assert "give --trainer.val_check_interval" in capsys.readouterr().err


def test_the_simple_profiler_prints_its_table(options: list[str], capsys: Capture) -> None:
    assert cli.main(["fit", *options, "--trainer.max_steps=2", "--trainer.profiler=simple"]) == 0
    table = capsys.readouterr().err
    assert "Profiler Report" in table and "run_training_batch" in table


def test_large_perplexities_are_printed_in_five_digits(options: list[str], capsys: Capture) -> None:
    assert cli.main(["fit", *options, "--trainer.max_steps=1"]) == 0
    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("tune/word_perplexity")
    ]
    assert "e+" in line and len(line.split()[-1]) == len("1.2345e+12")


def test_fit_without_arguments_prints_its_help(capsys: Capture) -> None:
    assert cli.main(["fit"]) == 2
    assert capsys.readouterr().out.startswith("usage: arch-lab fit")


@pytest.mark.slow
def test_the_example_of_the_configuration_file_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    file = ROOT / "experiments" / "perplexity" / "fit.yaml"
    override = file.read_text().splitlines()[1].partition(": ")[2].split()
    monkeypatch.chdir(tmp_path)
    result = scores_of(capsys, "fit", "--config", str(file), *override)
    assert result["steps"] == 200
    assert (
        yaml.safe_load(Path(result["results"], "config.yaml").read_text())["model"]["architecture"]
        == "m2_gpt"
    )
