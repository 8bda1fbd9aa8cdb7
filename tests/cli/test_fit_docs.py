"""Every command in docs/fit.md, in order, on a small text."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

import pytest

from arch_lab import cli
from tests.small_fit import MODEL, TRAINER, small_fit

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}


def commands() -> list[list[str]]:
    blocks = (ROOT / "docs" / "fit.md").read_text(encoding="utf-8").split("```\n")[1::2]
    return [
        shlex.split(line)[1:]
        for block in blocks
        for line in block.splitlines()
        if line.startswith("arch-lab ")
    ]


def test_the_commands_of_the_fit_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = small_fit(tmp_path)
    (tmp_path / "my.txt").write_text("\n\n".join(f"# {i}\nA paragraph, number {i}." for i in range(300)))
    small_text = [
        "--data.document_start=^# ",
        "--data.sequence_length=16",
        "--data.batch_size=4",
        *MODEL,
        *TRAINER,
    ]
    ran = 0
    for command in commands():
        if "ddp" in command or any(
            name in command and not importlib.util.find_spec(package) for name, package in PACKAGES.items()
        ):
            continue  # two processes have a test of their own
        if command[:3] == ["fit", "--config", "experiments/perplexity/fit.yaml"]:
            command[2] = str(ROOT / command[2])
            command += [*small, "--data.steps=6"]
        elif "my.txt" in command:
            command += [*small_text, "--data.steps=6"]
        elif command[0] == "fit":
            command += ["--trainer.max_steps=9"]
        assert cli.main(command) == 0, command
        ran += 1
    assert ran >= 10
