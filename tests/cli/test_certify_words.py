"""``arch-lab certify``: one unit for every law, and mistakes of a first block called by their name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arch_lab.cli import main
from blocks import registry

BLOCK = """
import torch
from dataclasses import dataclass
from torch import nn
from blocks import BlockConfig, Cost, register
from tests.contracts.third_party import ByHistory, third_party

@third_party()
class WrongShape(ByHistory):
    def mix(self, x):
        return (x @ self.weight)[..., :3]

@third_party()
class NoSegments(ByHistory):
    def forward(self, x):
        return self.mix(x)

@third_party()
class NeverDrawn(ByHistory):
    def __init__(self, config):
        super(ByHistory, self).__init__(config)
        self.weight = nn.Parameter(torch.empty(config.width, config.width))
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "first_block.py").write_text(BLOCK)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(registry._entries)
    yield
    registry._entries.clear()
    registry._entries.update(before)
    for module in [
        name for name in sys.modules if name.startswith("tests.contracts.") or name == "first_block"
    ]:
        del sys.modules[module]


def laws(block: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    main(["certify", block, "--json"])
    return {law["law"]: law for law in json.loads(capsys.readouterr().out)["laws"]}


def test_every_law_that_holds_shows_its_share_of_the_bound(capsys):
    for law in laws("linear", capsys).values():
        if law["status"] == "passed":
            assert 0 <= law["share"] <= 1 and law["value"] <= law["bound"] and law["unit"]


def test_the_table_has_share_value_and_bound_in_each_row(capsys):
    assert main(["certify", "rms_norm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "no law broken" in lines[0] and lines[1].split()[:5] == [
        "law",
        "status",
        "share",
        "value",
        "bound",
    ]
    numerics = next(line for line in lines if line.startswith("numerics")).split()
    share, value, bound = map(float, numerics[2:5])
    assert share == pytest.approx(value / bound, rel=0.1)


def test_a_wrong_output_shape_is_one_clear_line_in_each_law(capsys):
    failed = [law for law in laws("first_block:WrongShape", capsys).values() if law["status"] == "failed"]
    assert {law["law"] for law in failed} >= {"causality", "isolation"}
    assert all(
        "the shape of its input" in law["reason"]
        for law in failed
        if law["law"] in ("causality", "isolation")
    )
    assert not any("IndexError" in law["reason"] for law in failed)


def test_a_forward_without_segments_is_said_by_isolation_alone(capsys):
    found = laws("first_block:NoSegments", capsys)
    assert "forward takes no segments" in found["isolation"]["reason"]
    assert found["causality"]["status"] == "passed"


def test_parameters_that_nobody_draws_are_named(capsys):
    found = laws("first_block:NeverDrawn", capsys)
    assert (
        "parameter 'weight'" in found["numerics"]["reason"]
        and "self.reset_parameters()" in found["numerics"]["reason"]
    )
