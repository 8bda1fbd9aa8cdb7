"""A fit small enough for tests: a tiny model on a few hundred lines of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from arch_lab import cli

MODEL = ["--model.width=16", "--model.depth=1", "--model.ffn_width=16", "--model.max_tokens=16"]
TRAINER = ["--trainer.accelerator=cpu"]


def small_fit(folder: Path) -> list[str]:
    """Options of a fit in ``folder``, where the text is written; max_steps is left to the test."""
    for name in ("train", "held_out"):
        rows = (json.dumps({"text": f"Paragraph {i} of the {name} text says little."}) for i in range(200))
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    files = [
        "--data.source=files",
        "--data.files.train=train.jsonl",
        "--data.files.validation=held_out.jsonl",
        f"--data.root={folder}",
    ]
    return [*files, "--data.sequence_length=16", "--data.batch_size=4", *MODEL, *TRAINER]


def scores_of(capsys: Any, *arguments: str) -> dict[str, Any]:
    """What a command that must succeed prints with ``--json``."""
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def failure_of(capsys: Any, *arguments: str) -> str:
    """The one line that a command with a user's mistake prints on standard error."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    (error,) = lines_of(capsys.readouterr().err)
    assert error.startswith("error: ")
    return error


def lines_of(stderr: str) -> list[str]:
    """Standard error without notes and the line of the certificate."""
    return [line for line in stderr.splitlines() if not line.startswith(("note: ", "causal: "))]


def weights_of(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    """The model's own tensors in a checkpoint file."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("model.")}
