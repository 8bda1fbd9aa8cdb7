"""The benchmark protocol: ratios mean what they say, and contenders that differ are not timed."""

from __future__ import annotations

import json
import time

import pytest
import torch

from arch_lab.bench import measure, run_suite
from arch_lab.bench.protocol import GateError
from arch_lab.cli import main
from blocks.errors import ConfigError


def test_the_ratio_is_peer_time_over_our_time() -> None:
    row = measure("sleep", "-", lambda: time.sleep(0.004), "longer sleep", lambda: time.sleep(0.012), repeats=5)
    assert row.ratio == pytest.approx(3, rel=0.5)
    assert row.ratio_low <= row.ratio <= row.ratio_high
    assert row.peer_ms > row.ours_ms >= 4


def test_contenders_that_differ_are_refused() -> None:
    with pytest.raises(GateError, match="differ by"):
        measure("wrong", "-", lambda: torch.ones(3), "right", lambda: torch.zeros(3) + 1.5, same=True)


def test_an_unknown_suite_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'linear'"):
        next(run_suite("linaer"))


def test_bench_json_has_the_documented_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "linear", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"environment", "rows"}
    for row in printed["rows"]:
        assert {"name", "shape", "ours_ms", "peer", "peer_ms", "ratio"} <= set(row)
        assert row["ratio"] > 0
