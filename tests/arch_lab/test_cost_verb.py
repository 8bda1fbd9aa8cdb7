"""``arch-lab cost``: published sizes to the last parameter, one documented JSON form, mistakes answered in one line."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from arch_lab import cli
from arch_lab.accounting import ledger
from arch_lab.models import Shape, recipe

KEYS = {"architecture", "parameters", "flops_per_token", "conventions", "state_bytes"}


def cost(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert cli.main(["cost", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("architecture", "size", "tokens", "total"),
    [
        ("gemma2", "2b", 8192, 2_614_341_888),
        ("gemma3", "1b", 8192, 999_885_952),
        ("gemma3", "27b", 8192, 27_009_346_304),
        ("m2_bert", "80m", 128, 80_267_328),
        ("m2_bert", "80m", 8192, 87_428_160),
        ("m2_bert", "341m", 100, 341_038_144),
    ],
)
def test_a_published_size_prints_its_published_parameters(
    capsys: pytest.CaptureFixture[str], architecture: str, size: str, tokens: int, total: int
) -> None:
    start = time.process_time()
    found = cost(capsys, architecture, "--preset", size, "--seq-len", str(tokens))
    assert found["parameters"]["total"] == total
    assert time.process_time() - start < 3  # beside the import of torch


def test_the_json_has_the_documented_form(capsys: pytest.CaptureFixture[str]) -> None:
    found = cost(capsys, "gemma3", "--preset", "270m", "--seq-len", "2048")
    assert found.keys() >= KEYS
    assert found["parameters"].keys() == {"embedding", "head", "body", "total"}
    assert found["flops_per_token"].keys() == {"matmul", "fft", "elementwise"}
    assert found["conventions"].keys() == {"palm", "six_nd", "kaplan", "chinchilla"}
    assert found["state_bytes"] == 4 * 2 * 256 * (15 * 512 + 3 * 2048)


def test_flops_per_token_are_forward_and_the_conventions_training(capsys: pytest.CaptureFixture[str]) -> None:
    found = cost(
        capsys,
        "m2_gpt",
        "--width",
        "64",
        "--depth",
        "2",
        "--ffn-width",
        "96",
        "--seq-len",
        "50",
        "--batch",
        "3",
    )
    config = recipe("m2_gpt").config(Shape(width=64, depth=2, ffn_width=96), vocabulary=32_768, max_tokens=50)
    book = ledger(config, tokens=50, batch=3)
    forward = found["flops_per_token"]
    assert forward["matmul"] + forward["fft"] == pytest.approx(float(book.forward), rel=1e-12)
    assert found["training_flops_per_token"] == pytest.approx(3 * float(book.forward), rel=1e-12)
    assert found["conventions"]["six_nd"] == 6 * found["parameters"]["total"]


def test_the_parts_add_up_to_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    found = cost(capsys, "gemma2", "--preset", "9b", "--seq-len", "777", "--batch", "2")
    assert sum(c["parameters"] for c in found["components"]) == found["parameters"]["total"]
    for kind, whole in found["flops_per_token"].items():
        assert sum(c[kind] for c in found["components"]) == pytest.approx(whole, rel=1e-12)


def test_an_encoder_has_no_state_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    found = cost(capsys, "m2_bert", "--preset", "80m", "--seq-len", "128")
    assert found["state_bytes"] is None
    assert "encoder" in found["state_reason"]


def test_options_change_a_published_size(capsys: pytest.CaptureFixture[str]) -> None:
    found = cost(
        capsys, "m2_bert", "--preset", "80M", "--seq-len", "128", "--options", "residual_long_conv=false"
    )
    assert found["parameters"]["total"] == 77_078_592


def test_a_larger_batch_shares_the_work_of_the_filters(capsys: pytest.CaptureFixture[str]) -> None:
    size = ["m2_gpt", "--width", "64", "--depth", "2", "--seq-len", "64"]
    one, eight = (cost(capsys, *size, "--batch", b)["training_flops_per_token"] for b in ("1", "8"))
    assert eight < one


def test_the_table_shows_every_part_and_the_distance_of_each_convention(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["cost", "m2_bert", "--preset", "80m", "--seq-len", "8192"]) == 0
    out = capsys.readouterr().out
    for expected in ("layers.*.mixer", "87,428,160", "published for 128", "six_nd", "+6.7%", "encoder"):
        assert expected in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["gema3", "--preset", "2b", "--seq-len", "9"], "did you mean 'gemma3'"),
        (["gemma3", "--preset", "2b", "--seq-len", "9"], "unknown preset '2b'"),
        (["gemma2", "--preset", "29b", "--seq-len", "9"], "did you mean '9b'"),
        (["m2_gpt", "--preset", "80m", "--seq-len", "9"], "no published sizes"),
        (
            ["gemma2", "--preset", "2b", "--width", "64", "--depth", "2", "--seq-len", "9"],
            "leave out --width, --depth",
        ),
        (["gemma2", "--preset", "2b"], "--seq-len"),
        (["gemma2", "--preset", "2b", "--seq-lne", "9"], "did you mean '--seq-len'"),
        (["gemma2", "--seq-len", "9"], "--width is missing"),
        (["gemma2", "--width", "64", "--seq-len", "9"], "--depth is missing"),
        (["gemma2", "--width", "64", "--depth", "0", "--seq-len", "9"], "from 1 on"),
        (["gemma2", "--width", "65", "--depth", "1", "--seq-len", "9"], "multiple of head_width"),
        (
            ["gemma2", "--width", "64", "--depth", "1", "--seq-len", "9", "--options", "widow=3"],
            "did you mean 'window'",
        ),
        (["gemma2", "--width", "64", "--depth", "1", "--seq-len", "9", "--options", "window"], "key=value"),
        (["custom", "--width", "64", "--depth", "1", "--seq-len", "9"], "'mixer' is required"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert cli.main(["cost", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1


THIRD_PARTY = '''
from dataclasses import dataclass
import blocks
from blocks import Cost

@dataclass(frozen=True, kw_only=True)
class FreeConfig(blocks.GeGLUConfig): ...

@blocks.register("free_glu_of_a_test", kind="channel_mixer", config=FreeConfig, source="test")
class Free(blocks.GeGLU):
    """A gated unit that claims to cost nothing."""
    def cost(self, tokens: int) -> Cost:
        return Cost()
'''


def test_a_block_from_elsewhere_is_held_to_its_formula(
    capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blocks import registry

    (tmp_path / "claims_nothing.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--options", "mixer=gemma3_attention", "channel=claims_nothing:Free"]
    try:
        assert cli.main(["cost", "custom", *options, "--width", "32", "--depth", "1", "--seq-len", "8"]) == 2
    finally:
        registry._entries.pop("free_glu_of_a_test", None)
    assert "layers.0.channel (Free) says 0 FLOPs" in capsys.readouterr().err
