"""Damaged and forged checkpoints: one line within seconds, whatever their settings say."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

import arch_lab
from arch_lab import cli
from arch_lab.data import train_bpe
from arch_lab.models import Shape, recipe
from tests.mutations import answer, damaged_bytes, damaged_json, damaged_tree, seeds

SIZES = {"width": 32, "depth": 2, "ffn_width": 32}
MODELS: dict[str, dict[str, Any]] = {
    "gemma3": {"window": 8, "pattern": "LG"},
    "m2_gpt": {},
    "custom": {"mixer": "gated_long_conv", "mixer_options": {}},
    "m2_bert": {},
}
VALIDATE = [
    *(
        "validate",
        "--ckpt_path=run",
        "--data.source=files",
        "--data.files.train=a.txt",
        "--data.document_start=^The",
    ),
    *(
        "--data.sequence_length=8",
        "--data.batch_size=2",
        "--data.tokenizer.kind=file",
        "--trainer.accelerator=cpu",
    ),
    *("--trainer.logger=false", "--trainer.enable_progress_bar=false"),
]
FAST, MORE = 6, 120  # damaged inputs of each kind


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Content of a checkpoint file by architecture, and a converted and a Hugging Face folder of the Gemma."""
    folder = tmp_path_factory.mktemp("sound")
    tokenizer = train_bpe(["the tide comes in and the tide goes out " * 20], 270)
    trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    loops = {"validate_loop": trainer.validate_loop.state_dict()}
    by_lightning = {"pytorch-lightning_version": pl.__version__, "epoch": 0, "global_step": 3, "loops": loops}
    made: dict[str, Any] = {}
    for name, options in MODELS.items():
        torch.manual_seed(0)
        model = recipe(name, options).model(Shape(**SIZES), vocabulary=270, max_tokens=32)
        settings = {**SIZES, "architecture": name, "options": options, "vocabulary": 270, "max_tokens": 32}
        weights = {f"model.{key}": value for key, value in model.state_dict().items()}
        made[name] = {
            "hyper_parameters": settings,
            "state_dict": weights,
            "tokenizer": tokenizer.to_dict(),
            **by_lightning,
        }
    torch.save(made["gemma3"], folder / "gemma3.ckpt")
    tokenizer.save(folder / "tokenizer")
    tokenizer.save(folder / "tokenizer")
    arch_lab.convert(folder / "gemma3.ckpt", folder / "theirs", to="huggingface")
    arch_lab.convert(folder / "theirs", folder / "ours")
    made["folder"] = folder
    return made


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def as_run(content: dict[str, Any], folder: Path) -> Path:
    """A run folder with this model and a checksum that fits it: somebody who edits one can mend the other."""
    folder.mkdir()
    torch.save(content, folder / "model.ckpt")
    checksum = hashlib.sha256((folder / "model.ckpt").read_bytes()).hexdigest()
    (folder / "model.ckpt.sha256").write_text(checksum + "\n")
    for name in ("config.json", "result.json"):
        (folder / name).write_text("{}")
    return folder


def check(seed: str, sound: dict[str, Any], tmp_path: Path) -> None:
    """Damage one part of one checkpoint, then open it."""
    draw, folder = random.Random(seed), tmp_path / "inside"
    folder.mkdir()
    kind = seed.rpartition("-")[0]
    if kind == "settings":
        content = dict(sound[draw.choice(list(MODELS))])
        content["hyper_parameters"] = damaged_tree(content["hyper_parameters"], draw)
        as_run(content, folder / "run")
    elif kind == "weights":
        content = dict(sound[draw.choice(list(MODELS))])
        content["state_dict"] = damaged_weights(content["state_dict"], draw)
        as_run(content, folder / "run")
    elif kind == "rest":
        content = {key: value for key, value in sound["gemma3"].items() if key != "state_dict"}
        damaged = damaged_tree(content, draw)
        as_run(
            {**damaged, "state_dict": sound["gemma3"]["state_dict"]}
            if isinstance(damaged, dict)
            else damaged,
            folder / "run",
        )
    elif kind == "file":
        (folder / "run").mkdir()
        torch.save(sound["gemma3"], folder / "run/a.ckpt")
        (folder / "run/a.ckpt").write_bytes(damaged_bytes((folder / "run/a.ckpt").read_bytes(), draw))
    else:
        name, file = {"manifest": ("ours", "arch-lab.json"), "config": ("theirs", "config.json")}.get(
            kind, ("ours", "model.safetensors")
        )
        copied(sound["folder"] / name, folder / "run")
        path = folder / "run" / file
        path.write_bytes(
            damaged_json(path.read_text(), draw)
            if file.endswith(".json")
            else damaged_bytes(path.read_bytes(), draw)
        )
    (folder / "a.txt").write_text("".join(f"The tide of day {day}.\n" for day in range(20)))
    score, generate = (
        ["score", "run", "--text", "a.txt", "--context", "2"],
        ["generate", "run", "--prompt", "the", "--max-tokens", "2"],
    )
    commands = [
        score,
        generate,
        score,
        generate,
        [*VALIDATE, f"--data.tokenizer.path={sound['folder'] / 'tokenizer'}"],
    ]
    answer(draw.choice(commands), folder, seed=seed)


def damaged_weights(weights: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """One tensor lost, renamed, reshaped, of another type, or none at all."""
    weights = dict(weights)
    name = draw.choice(list(weights))
    value = weights.pop(name)
    changes: list[Callable[[], Any]] = [
        lambda: value[..., :1],
        lambda: value.to(torch.int8),
        lambda: value.to(torch.complex64),
        lambda: value.to_sparse(),
        lambda: value * float("nan"),
        lambda: value.tolist(),
        lambda: torch.empty(0),
    ]
    if draw.random() < 0.8:
        weights[name + draw.choice(("", "", "x"))] = draw.choice(changes)()
    return weights


KINDS = ("settings", "weights", "rest", "file", "manifest", "config", "tensors")


@pytest.mark.parametrize("seed", [seed for kind in KINDS for seed in seeds(FAST, kind)])
def test_a_damaged_checkpoint_is_one_line_or_opens(seed: str, sound: dict[str, Any], tmp_path: Path) -> None:
    check(seed, sound, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_checkpoints_are_one_line_or_open(
    kind: str, sound: dict[str, Any], tmp_path: Path
) -> None:
    for seed in seeds(MORE, kind)[FAST:]:
        (tmp_path / seed).mkdir()
        check(seed, sound, tmp_path / seed)


def failure(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    capsys.readouterr()
    assert cli.main(["generate", str(path), "--prompt", "the", "--max-tokens", "2"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    return printed


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"depth": 10**8}, "depth 100,000,000 does not fit the file, which holds"),
        ({"depth": 2**63}, "depth 9223372036854775808 is not a whole number from 1 to"),
        ({"width": "wide"}, "width 'wide' is not a whole number"),
        (
            {"vocabulary": 2**31 - 1},
            "tensor 'embedding.weight' has shape [270, 32], its settings say [2147483647, 32]",
        ),
        ({"options": {"window": -8, "pattern": "LG"}}, "window"),
        ({"options": [[[]]]}, "are not a mapping"),
        ({"architecture": ["gemma3"]}, "is not a name"),
        ({"architecture": "gemma33"}, "did you mean 'gemma3'?"),
    ],
    ids=str,
)
def test_settings_that_fit_no_file_are_named(
    change: dict[str, Any],
    part: str,
    sound: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = {**sound["gemma3"], "hyper_parameters": {**sound["gemma3"]["hyper_parameters"], **change}}
    assert part in failure(capsys, as_run(content, tmp_path / "run"))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda w: w.pop("model.norm.weight"), "tensor 'norm.weight' is missing"),
        (lambda w: w.update({"model.spare": torch.zeros(1)}), "tensor 'spare' is not part of this model"),
        (
            lambda w: w.update({"model.norm.weight": torch.zeros(3)}),
            "tensor 'norm.weight' has shape [3], its settings say [32]",
        ),
        (
            lambda w: w.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)}),
            "tensor 'norm.weight' is int8, expected float32",
        ),
    ],
    ids=["missing", "unexpected", "misshapen", "integer"],
)
def test_weights_that_do_not_fit_are_named(
    change: Callable[[dict[str, Any]], Any],
    part: str,
    sound: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = dict(sound["gemma3"]["state_dict"])
    change(weights)
    assert part in failure(capsys, as_run({**sound["gemma3"], "state_dict": weights}, tmp_path / "run"))


def test_a_manifest_of_a_hundred_million_layers_is_refused(
    sound: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(sound["folder"] / "ours", tmp_path / "ours")
    manifest = json.loads((folder / "arch-lab.json").read_text())
    manifest["shape"]["depth"] = 10**8
    (folder / "arch-lab.json").write_text(json.dumps(manifest))
    assert "depth 100,000,000 does not fit the file" in failure(capsys, folder)
    weights = load_file(folder / "model.safetensors")
    manifest["shape"]["depth"] = 2
    (folder / "arch-lab.json").write_text(json.dumps(manifest))
    save_file(
        {name: value for name, value in weights.items() if name != "norm.weight"},
        folder / "model.safetensors",
    )
    assert "tensor 'norm.weight' is missing" in failure(capsys, folder)
