"""What the tests of convert share: there and back again, one line and nothing left behind, fields changed in a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from arch_lab.checkpoints import CheckpointError
from arch_lab.checkpoints.convert import convert


def there_and_back(model: nn.Module, folder: Path) -> Path:
    """``folder`` with ``theirs`` (saved by transformers), ``ours`` (converted) and ``back`` (converted back)."""
    model.save_pretrained(folder / "theirs")  # type: ignore[operator]
    convert(folder / "theirs", folder / "ours")
    convert(folder / "ours", folder / "back", to="huggingface")
    return folder


def assert_equal_bit_for_bit(first: Path, second: Path) -> None:
    """Every tensor of two model.safetensors, its type included."""
    one, two = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) and one[name].dtype == two[name].dtype for name in one)


def assert_a_second_round_writes_the_same_files(folder: Path, target: Path) -> None:
    """``folder`` as ``there_and_back`` leaves it."""
    convert(folder / "back", target / "ours")
    convert(target / "ours", target / "back", to="huggingface")
    for name in ("config.json", "model.safetensors"):
        assert (target / "back" / name).read_bytes() == (folder / "back" / name).read_bytes()
    assert (target / "ours/arch-lab.json").read_bytes() == (folder / "ours/arch-lab.json").read_bytes()


def copied(saved: Path, folder: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, folder / "source"))


def edit(folder: Path, changes: dict[str, Any], file: str = "config.json") -> None:
    """Sets fields by their dotted names."""
    content = json.loads((folder / file).read_text())
    for name, value in changes.items():
        *path, last = name.split(".")
        inner = content
        for part in path:
            inner = inner[part]
        inner[last] = value
    (folder / file).write_text(json.dumps(content))


def refusal(source: Path, target: Path, **options: Any) -> str:
    """The one line a conversion that must fail ends with; nothing may be left behind."""
    before = sorted(target.parent.iterdir())
    with pytest.raises(CheckpointError) as error:
        convert(source, target, **options)
    assert sorted(target.parent.iterdir()) == before and "\n" not in str(error.value)
    return str(error.value)
