"""The benchmark protocol: ratios mean what they say, and contenders that differ are not timed."""

from __future__ import annotations

import json
import time

import pytest
import torch

from arch_lab.bench import Row, Skipped, attention, convolution, gemma, limits, linear, measure, run_suite
from arch_lab.bench.protocol import GateError, peak_bytes
from arch_lab.cli import main
from arch_lab.models.gemma import Gemma2, Gemma3
from blocks.errors import ConfigError


def test_the_ratio_is_peer_time_over_our_time() -> None:
    row = measure(
        "sleep", "-", lambda: time.sleep(0.004), "longer sleep", lambda: time.sleep(0.012), repeats=5
    )
    assert row.ratio == pytest.approx(3, rel=0.5)
    assert row.ratio_low <= row.ratio <= row.ratio_high
    assert row.peer_ms > row.ours_ms >= 4


def test_contenders_that_differ_are_refused() -> None:
    with pytest.raises(GateError, match="differ by"):
        measure("wrong", "-", lambda: torch.ones(3), "right", lambda: torch.zeros(3) + 1.5, same=True)


def test_an_unknown_suite_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'linear'"):
        next(run_suite("linaer"))


def test_bench_json_has_the_documented_form(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "SIZES", ((512, 64),))
    assert main(["bench", "linear", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"environment", "rows"}
    for row in printed["rows"]:
        assert {"name", "shape", "ours_ms", "peer", "peer_ms", "ratio"} <= set(row)
        assert row["ratio"] > 0


def test_peak_memory_is_what_tensors_held_at_once() -> None:
    def call() -> None:
        first = torch.empty(1000)  # 4000 bytes, freed before the third is made
        second = torch.empty(500)
        del first
        third = torch.empty(1500)
        del second, third

    assert peak_bytes(call) == pytest.approx(
        4 * (500 + 1500), abs=3 * 64
    )  # the allocator rounds up to its alignment


@pytest.fixture
def short_gemma(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suites at lengths just past their window, one repeat."""
    for module, sizes in {
        gemma: {"MODELS": ((Gemma3, 300, "sdpa"), (Gemma2, 300, "eager")), "REPEATS": 1},
        attention: {
            "LOCAL_TOKENS": 600,
            "MEMORY_LENGTHS": (1024, 2048, 4096),
            "ROTATED": ((2, 33),),
            "WIDTHS": (128,),
            "NEW_TOKENS": 4,
            "REPEATS": 1,
        },
    }.items():
        for name, value in sizes.items():
            monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("short_gemma")
def test_the_gemma_suite_measures_models_of_two_generations() -> None:
    pytest.importorskip("transformers")
    rows = list(gemma.gemma())  # outputs were compared with those of transformers, or there would be no row
    assert [row.name for row in rows] == ["gemma3 forward+backward", "gemma2 forward+backward"]


@pytest.mark.usefixtures("short_gemma")
def test_local_attention_is_timed_against_three_peers_with_linear_memory() -> None:
    rows = list(attention.local_rows())
    assert [row.name for row in rows] == [
        *["local attention forward"] * 3,
        *["local attention forward+backward"] * 3,
    ]
    for row in rows:
        assert row.peak_bytes is not None
        small, _, large = row.peak_bytes.values()
        assert large < 4.8 * small  # four times as many tokens; the first and last of a row are handled apart


@pytest.mark.usefixtures("short_gemma")
def test_rotation_and_generation_have_rows_of_their_own() -> None:
    pytest.importorskip("transformers")
    peers = [
        row.peer for row in [*attention.rotation_rows(), *attention.generation_rows()] if isinstance(row, Row)
    ]
    assert peers == [
        "by hand, tables built per call",
        "by hand, tables kept",
        "bare loop over transformers",
        "transformers generate",
    ]


@pytest.mark.usefixtures("short_gemma")
def test_without_transformers_the_suites_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, rows in ((gemma, gemma.gemma), (attention, attention.generation_rows)):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
        (only,) = rows()
        assert isinstance(only, Skipped) and "transformers is not installed" in only.reason


def test_without_scipy_its_row_is_skipped_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIZES": ((1, 64),), "REPEATS": 1, "find_spec": lambda name: None}.items():
        monkeypatch.setattr(convolution, name, value)
    *rows, last = convolution.convolution()
    assert rows and isinstance(last, Skipped) and "scipy is not installed" in last.reason


def test_peers_by_hand_with_a_defect_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SIZES", ((64, 16),))
    monkeypatch.setattr(linear, "einsum", lambda x, weight: linear.bmm_with_copy(x, weight) * 1.01)
    with pytest.raises(GateError, match="differ by"):
        next(linear.linear())


def test_shares_of_the_limit_follow_from_the_rates_of_the_same_rounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"ROUNDS": 1, "SIDE": 64, "POINTS": 64, "COPIED": 2**16, "STEPS": ()}.items():
        monkeypatch.setattr(limits, name, value)
    works = list(limits.operations())[1:3]
    monkeypatch.setattr(limits, "operations", lambda: iter(works))
    rows = list(limits.limits())
    for row in rows:
        limit = row.matmul_flops / row.rates.matmul + row.fft_flops / row.rates.fft
        assert row.peer_ms == pytest.approx(1e3 * limit)
        assert row.ratio == pytest.approx(row.peer_ms / row.ours_ms)
    assert main(["bench", "limits"]) == 0
    printed = capsys.readouterr().out
    assert "GB/s" in printed and "BlockDiagonalGLU" in printed


@pytest.mark.usefixtures("short_gemma")
def test_a_model_that_differs_from_the_peer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setitem(gemma.NAMES, "mixer_norm", "pre_feedforward_layernorm")
    monkeypatch.setitem(gemma.NAMES, "channel_norm", "input_layernorm")
    with pytest.raises(GateError, match="differ by"):
        next(gemma.gemma())


@pytest.mark.slow
def test_the_image_suite_times_models_of_equal_parameters() -> None:
    from arch_lab.accounting import ledger
    from arch_lab.bench.images import CLASSES, M2_VIT, PATCH, VIT
    from arch_lab.models import recipe

    size = {"image": [32, 32], "channels": 3, "patch": PATCH}
    options = {"m2_vit": (size, M2_VIT), "vit": ({**size, "head_width": 32, "pool": "mean"}, VIT)}
    counts = {}
    for name, (given, shape) in options.items():
        counted = ledger(
            recipe(name, given).config(shape, vocabulary=CLASSES, max_tokens=64), tokens=64, batch=1
        ).parameters
        counts[name] = counted["body"] + counted["head"]
    assert all(abs(count / 1e6 - 1) < 0.01 for count in counts.values()), counts
    rows = [row for row in run_suite("images") if isinstance(row, Row)]
    assert [row.name for row in rows] == ["m2_vit forward", "m2_vit training step"] * 2 and all(
        row.ratio > 0 for row in rows
    )
