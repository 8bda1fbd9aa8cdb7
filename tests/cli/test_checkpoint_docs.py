"""Every command that docs/checkpoints.md shows, run on small models under the names it uses."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import arch_lab
from arch_lab import cli
from arch_lab.data import train_bpe
from arch_lab.models import Shape, recipe
from tests.cli.test_damaged_checkpoints import as_run

PAGE = (Path(__file__).resolve().parents[2] / "docs/checkpoints.md").read_text(encoding="utf-8")
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("arch-lab ")]
SHORT = [
    "--trainer.max_steps=1",
    "--trainer.accelerator=cpu",
    "--data.sequence_length=16",
    "--data.batch_size=2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the paths of the page."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "texts").mkdir()
    for name in (*(f"texts/{letter}.txt" for letter in "abcdefgh"), "held_out.txt"):
        (folder / name).write_text(
            "\n\n".join(f"{name} {i}: the tide comes in, the tide goes out" for i in range(40)),
            encoding="utf-8",
        )
    tokenizer = train_bpe(["the tide comes in and the tide goes out " * 20], 270)
    torch.manual_seed(0)
    options, sizes = {"window": 8, "pattern": "LG"}, {"width": 32, "depth": 2, "ffn_width": 32}
    model = recipe("gemma3", options).model(Shape(**sizes), vocabulary=270, max_tokens=80)
    settings = {**sizes, "architecture": "gemma3", "options": options, "vocabulary": 270, "max_tokens": 80}
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    content = {"hyper_parameters": settings, "state_dict": weights, "tokenizer": tokenizer.to_dict()}
    for path in ("runs/quickstart/runs/gemma3/60000", "runs/fit/version_0/checkpoints"):
        (folder / path).mkdir(parents=True)
    as_run(content, folder / "runs/quickstart/runs/gemma3/60000/lr-0.012_seed-0")
    torch.save(content, folder / "runs/fit/version_0/checkpoints/last.ckpt")
    arch_lab.convert(folder / "runs/fit/version_0", folder / "gemma-3-1b-pt", to="huggingface")
    stranger = {**settings, "architecture": "custom", "options": {"mixer": "my_module:Gemma1Attention"}}
    plain = recipe("custom", {"mixer": "gemma1_attention"}).model(
        Shape(**sizes), vocabulary=270, max_tokens=80
    )
    weights = {f"model.{name}": value for name, value in plain.state_dict().items()}
    torch.save({**content, "hyper_parameters": stranger, "state_dict": weights}, folder / "stranger.ckpt")
    (folder / "my_module.py").write_text(
        "from blocks.attention.gemma import Gemma1Attention as Gemma1Attention\n"
    )
    (study,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (folder / "tuned.yaml").write_text(study, encoding="utf-8")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_module", raising=False)  # that of another test
    arguments = shlex.split(command)[1:]
    assert cli.main([*arguments, *(SHORT if arguments[0] == "fit" else [])]) == 0


def test_the_page_shows_each_verb_it_is_about() -> None:
    assert {command.split()[1] for command in COMMANDS} == {"score", "generate", "fit", "plan"}
