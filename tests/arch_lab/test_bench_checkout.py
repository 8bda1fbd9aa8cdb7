"""Training steps against another checkout: equal numbers first, then a ratio."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from arch_lab.bench.checkout import ROOT, StepModel, steps_against
from arch_lab.bench.protocol import GateError
from arch_lab.cli import main
from arch_lab.models import Shape
from blocks.errors import ConfigError

SMALL = (
    StepModel(
        architecture="m2_gpt",
        options={"start": "released"},
        shape=Shape(width=32, depth=2, ffn_width=32),
        vocabulary=16,
        batch=2,
        tokens=16,
    ),
)

# appended to a copy of the decoder
LARGER = """
_hidden = ResidualStack.hidden
ResidualStack.hidden = lambda self, *inputs: 1.001 * _hidden(self, *inputs)
"""


@pytest.mark.slow
def test_a_checkout_against_itself_computes_the_same_numbers() -> None:
    (row,) = steps_against(ROOT, models=SMALL, rounds=2, steps=1)
    assert row.name == "m2_gpt step"
    assert row.float64_gradients == row.float64_losses == row.float32_losses == 0
    assert row.ratio > 0


@pytest.mark.slow
def test_a_checkout_that_computes_something_else_is_not_timed(tmp_path: Path) -> None:
    for package in ("arch_lab", "blocks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "arch_lab" / "models" / "decoder.py").open("a") as decoder:
        decoder.write(LARGER)
    with pytest.raises(GateError, match="m2_gpt step: float64 gradients differ by"):
        next(steps_against(tmp_path, models=SMALL))


def test_a_folder_without_a_checkout_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no arch_lab in this folder; git worktree add"):
        next(steps_against(tmp_path))


@pytest.mark.parametrize("arguments", [["step"], ["linear", "--against", "."]])
def test_step_and_against_need_each_other(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert "give both or neither" in capsys.readouterr().err
