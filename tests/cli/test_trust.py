"""Opening a checkpoint imports no module that the user has not named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import arch_lab
from arch_lab import cli
from arch_lab.data import ByteTokenizer
from arch_lab.models import Shape, recipe
from tests.small_study import small_study

MODULE = '''
from pathlib import Path
Path("imported").touch()
from blocks.contract import ChannelMixer
from blocks.cost import Cost
from blocks import BlockConfig, register
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class TwiceConfig(BlockConfig):
    width: int

@register("{name}_twice", kind="channel_mixer", config=TwiceConfig, source="a test")
class Twice(ChannelMixer):
    """Doubles."""
    def forward(self, x):
        return 2 * x
    def cost(self, tokens):
        return Cost(elementwise=tokens * self.config.width)
    def reset_parameters(self):
        pass
'''
SHAPE = {"width": 32, "depth": 1, "ffn_width": 32}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the module ``stranger``, which leaves a trace when it is imported, and a checkpoint that names it."""
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    Path("stranger.py").write_text(MODULE.format(name="stranger"))
    options: dict[str, Any] = {"mixer": "gemma1_attention", "channel": "stranger:Twice"}
    plain = recipe("custom", {"mixer": "gemma1_attention"}).model(
        Shape(**SHAPE), vocabulary=257, max_tokens=16
    )
    weights = {name: value for name, value in plain.state_dict().items() if ".channel." not in name}
    settings = {**SHAPE, "architecture": "custom", "options": options, "vocabulary": 257, "max_tokens": 16}
    content = {"hyper_parameters": settings, "state_dict": {f"model.{k}": v for k, v in weights.items()}}
    torch.save({**content, "tokenizer": ByteTokenizer().to_dict()}, "stranger.ckpt")
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("stranger", None)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that must fail."""
    capsys.readouterr()
    assert cli.main(list(arguments)) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    return printed


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "stranger.ckpt", "--prompt", "x"],
        ["convert", "stranger.ckpt", "out", "--to", "huggingface"],
        ["validate", "--ckpt_path", "stranger.ckpt"],
        ["predict", "--ckpt_path=stranger.ckpt"],
    ],
    ids=lambda command: command[0],
)
def test_a_module_nobody_named_is_not_imported(
    command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = failure(capsys, *command)
    assert "stranger.ckpt: it uses 'stranger:Twice'" in message and "add --trust stranger" in message
    assert not (folder / "imported").exists()


def test_a_named_module_is_imported_and_the_model_runs(folder: Path) -> None:
    assert (
        cli.main(["generate", "stranger.ckpt", "--prompt", "x", "--max-tokens", "2", "--trust", "stranger"])
        == 0
    )
    assert (folder / "imported").exists()


def test_python_names_modules_as_the_command_line_does(folder: Path) -> None:
    assert arch_lab.generate("stranger.ckpt", "x", max_tokens=2, trust=("stranger",)).tokens


def test_trust_in_one_module_is_none_in_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "add --trust stranger" in failure(
        capsys, "generate", "stranger.ckpt", "--prompt", "x", "--trust", "strange"
    )
    assert "expected the name of a module" in failure(
        capsys, "generate", "stranger.ckpt", "--prompt", "x", "--trust", "../x"
    )


def test_a_converted_folder_is_held_to_the_same_rule(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ours").mkdir()
    manifest = {"format": 1, "architecture": "custom", "options": {"mixer": "stranger:Twice"}, "shape": SHAPE}
    manifest |= {"vocabulary": 257, "max_tokens": 16, "tokens": {}}
    (folder / "ours/arch-lab.json").write_text(json.dumps(manifest))
    torch_file = {name: torch.zeros(1) for name in "ab"}
    from safetensors.torch import save_file

    save_file(torch_file, folder / "ours/model.safetensors")
    assert "add --trust stranger" in failure(capsys, "generate", "ours", "--prompt", "x")
    assert not (folder / "imported").exists()


def test_a_refused_module_is_not_looked_for_in_the_working_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure(capsys, "generate", "stranger.ckpt", "--prompt", "x")
    assert str(folder) not in sys.path


def test_a_trusted_module_that_is_not_there_says_where_it_was_looked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    message = failure(capsys, "generate", "../stranger.ckpt", "--prompt", "x", "--trust", "stranger")
    assert "cannot import module 'stranger'" in message and "PYTHONPATH" in message


def test_a_study_starts_from_a_stranger_only_if_it_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = [{"architecture": "custom", "initialise_from": "stranger.ckpt"}]
    budget = {"params": 6.0e4, "train_flops": 1.0e8, "allow_unmatched": True}
    path = str(
        small_study(folder, arms=arms, budget=budget, training={"sequence_length": 16, "batch_size": 2})
    )
    assert "arm 'custom': initialise_from: stranger.ckpt: it uses 'stranger:Twice'" in failure(
        capsys, "plan", path
    )
    assert not (folder / "imported").exists()
    assert cli.main(["plan", path, "--trust", "stranger"]) == 0


@pytest.mark.slow
def test_pickled_code_in_a_checkpoint_never_runs(folder: Path) -> None:
    code = (
        "import torch, os\n"
        "class Bad:\n"
        "    def __reduce__(self): return os.mkdir, ('ran',)\n"
        "torch.save({'hyper_parameters': Bad(), 'state_dict': {}}, 'bad.ckpt')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)
    assert cli.main(["generate", "bad.ckpt", "--prompt", "x"]) == 2
    assert not (folder / "ran").exists()
