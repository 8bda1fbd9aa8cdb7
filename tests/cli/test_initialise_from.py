"""Training that starts from a checkpoint: ``fit --model.initialise_from`` and ``initialise_from`` of an arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import arch_lab
from arch_lab import cli
from arch_lab.data import train_bpe
from arch_lab.models import Shape, recipe
from tests.small_study import small_study

OPTIONS = {"window": 8, "pattern": "LG"}
SIZES = {"width": 32, "depth": 2, "ffn_width": 64}
WORDS = "the tide comes in and the tide goes out\n"
QUICK = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.max_steps", "1"]
STILL = ["--model.learning_rate", "1e-12", "--model.weight_decay", "0"]  # a step that moves nothing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with text of its own, and ``start.ckpt``: an untrained Gemma 3 with a BPE of 270 entries."""
    monkeypatch.chdir(tmp_path)
    for name in ("train", "held_out"):
        Path(f"{name}.txt").write_text(
            "\n\n".join(f"{name} {i} {WORDS}" for i in range(40)), encoding="utf-8"
        )
    save("start.ckpt")
    return tmp_path


def save(name: str, *, without: str = "", vocabulary: int = 270, seed: int = 1) -> None:
    """An untrained model as ``fit`` leaves one; ``without``: leave that tensor out."""
    torch.manual_seed(seed)
    tokenizer = train_bpe([WORDS * 20], vocabulary)
    model = recipe("gemma3", OPTIONS).model(Shape(**SIZES), vocabulary=vocabulary, max_tokens=32)
    settings = {
        **SIZES,
        "architecture": "gemma3",
        "options": OPTIONS,
        "vocabulary": vocabulary,
        "max_tokens": 32,
    }
    weights = {f"model.{key}": value for key, value in model.state_dict().items() if key != without}
    torch.save({"hyper_parameters": settings, "state_dict": weights, "tokenizer": tokenizer.to_dict()}, name)


def fit(*options: str, tokenizer: str = "start.ckpt") -> int:
    """One step of ``fit`` on the files of the folder, with the tokenizer of a checkpoint."""
    data: dict[str, Any] = {"source": "files", "files.train": "train.txt", "files.validation": "held_out.txt"}
    data |= {"document_start": "^(train|held)", "sequence_length": 16, "batch_size": 2}
    data |= {"tokenizer.kind": "file", "tokenizer.path": tokenizer}
    return cli.main(
        [
            "fit",
            *(part for key, value in data.items() for part in (f"--data.{key}", str(value))),
            *QUICK,
            *options,
        ]
    )


def failure(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The last line of a command that must have failed."""
    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ")
    return last


# --- fit ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["fit", "converted", "huggingface"])
def test_fit_starts_from_the_weights_of_a_checkpoint(form: str, folder: Path) -> None:
    source = "start.ckpt"
    if form != "fit":
        arch_lab.convert("start.ckpt", "theirs", to="huggingface")
        source = "theirs"
    if form == "converted":
        arch_lab.convert("theirs", "ours")
        source = "ours"
    assert fit("--model.initialise_from", source, *STILL, tokenizer=source) == 0
    same = {"context": 16, "document_start": "^(train|held)"}
    before, after = (
        arch_lab.score(path, "held_out.txt", **same).nats for path in ("start.ckpt", "runs/fit/version_0")
    )
    assert after == pytest.approx(before, rel=1e-6)


def test_fit_refuses_a_shape_that_the_checkpoint_does_not_have(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = failure(capsys, fit("--model.initialise_from", "start.ckpt", "--model.width", "64"))
    assert "--model.width 64 contradicts the checkpoint start.ckpt, which has 32; leave it out" in message


def test_fit_refuses_ids_that_mean_another_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save("other.ckpt", vocabulary=268)
    message = failure(capsys, fit("--model.initialise_from", "start.ckpt", tokenizer="other.ckpt"))
    assert (
        "268 entries" in message and "270 entries" in message and f"path {folder / 'start.ckpt'}" in message
    )


def test_fit_names_a_weight_that_is_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save("part.ckpt", without="layers.1.channel.up.weight")
    message = failure(capsys, fit("--model.initialise_from", "part.ckpt"))
    assert "tensor 'layers.1.channel.up.weight' is missing" in message


# --- an arm of a study --------------------------------------------------------------------------------------------------


def study(folder: Path, arm: dict[str, Any], tokenizer: str = "start.ckpt") -> Path:
    """A study of a few still steps, of ``arm`` that starts from start.ckpt and the same architecture from random weights."""
    arms = [{"architecture": "gemma3", "initialise_from": "start.ckpt", **arm}]
    arms += [{"architecture": "gemma3", "name": "fresh", "options": OPTIONS, "shape": SIZES}]
    data = {
        "source": "files",
        "root": str(folder),
        "files": {"train": "train.txt", "validation": "held_out.txt"},
    }
    data |= {
        "document_start": "^(train|held)",
        "tune_fraction": 0.1,
        "tokenizer": {"kind": "file", "path": tokenizer},
    }
    training = {"sequence_length": 16, "batch_size": 2, "evaluations": 1, "weight_decay": 0}
    budget = {"params": 3.0e4, "train_flops": 2e7, "allow_unmatched": True}
    return small_study(folder, arms=arms, data=data, training=training, budget=budget, learning_rates=[1e-12])


def test_an_arm_starts_from_a_checkpoint_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study(folder, {"name": "tuned"})
    result = arch_lab.compare(str(path), output="runs", cache="cache", quiet=True)
    before = arch_lab.score("start.ckpt", "held_out.txt", context=16, document_start="^(train|held)")
    scores = {r.arm: r.scores["bits_per_byte"] for r in result.results}
    assert (
        scores["tuned"]
        == pytest.approx(before.bits_per_byte, rel=1e-6)
        != pytest.approx(scores["fresh"], rel=1e-4)
    )
    tuned = result.arm("tuned")
    assert (tuned.width, tuned.depth, tuned.options) == (32, 2, OPTIONS)
    assert tuned.initialise_from.path == "start.ckpt"
    said = "tuned starts from the checkpoint start.ckpt"
    assert (
        any(line.startswith(said) for line in result.warnings)
        and said in Path("runs/small/report.html").read_text()
    )
    save("start.ckpt", seed=2)  # other weights under the same name are another arm
    assert "initial" in failure(capsys, cli.main(["compare", str(path), "--output", "runs", "--quiet"]))


@pytest.mark.parametrize(
    ("arm", "part"),
    [
        (
            {"architecture": "gemma2"},
            "architecture 'gemma2' contradicts the checkpoint start.ckpt, which has 'gemma3'",
        ),
        ({"shape": {**SIZES, "width": 64}}, "shape {'width': 64, 'depth': 2, 'ffn_width': 64} contradicts"),
        ({"options": {"window": 4}}, "options {'window': 4} contradicts"),
        ({"initialise_from": "sart.ckpt"}, "no such file or folder; did you mean 'start.ckpt'?"),
        ({"initialise_from": "other.ckpt"}, "the checkpoint other.ckpt has 268 tokens and the data 270"),
    ],
    ids=["architecture", "shape", "options", "path", "tokenizer"],
)
def test_an_arm_that_does_not_fit_its_checkpoint_is_refused_in_the_plan(
    arm: dict[str, Any], part: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save("other.ckpt", vocabulary=268)
    assert part in failure(capsys, cli.main(["plan", str(study(folder, arm))]))
