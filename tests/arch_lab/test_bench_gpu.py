"""The GPU benchmark, at toy size on the processor: the code is the one that runs on CUDA, the numbers mean nothing here."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from arch_lab.bench import Skipped, gemma, gemma_gpu
from arch_lab.bench.gemma_gpu import HUNDRED_MILLION, NO_CUDA, TrainingBench, TrainingRow, training_rows
from arch_lab.cli import main
from arch_lab.models import Shape
from arch_lab.models.gemma import Gemma3

ROOT = Path(__file__).resolve().parents[2]
TOY = TrainingBench(
    recipe=Gemma3(heads=4, kv_heads=1, head_width=16, window=16, pattern="LG"),
    shape=Shape(width=32, depth=2, ffn_width=64),
    vocabulary=64,
    lengths=(48,),
    step_tokens=96,
    peers=("sdpa",),
    device="cpu",
    repeats=1,
)
without_cuda = pytest.mark.skipif(
    torch.cuda.is_available(), reason="says what happens where there is no CUDA device"
)


def test_the_model_has_a_hundred_million_parameters() -> None:
    bench = HUNDRED_MILLION
    model = bench.recipe.config(
        bench.shape, vocabulary=bench.vocabulary, max_tokens=max(bench.lengths)
    ).build("meta")
    assert model.parameter_counts()["total"] == pytest.approx(100e6, rel=0.02)
    assert all(bench.step_tokens % tokens == 0 for tokens in bench.lengths)


def test_a_training_step_is_measured_in_time_tokens_and_memory() -> None:
    pytest.importorskip("transformers")
    (row,) = training_rows(TOY)
    assert isinstance(row, TrainingRow), row
    assert row.peer == "transformers sdpa" and row.shape.startswith("B 2, T 48, 2 layers, D 32")
    assert row.ours_tokens_per_s == pytest.approx(96e3 / row.ours_ms)
    assert row.peer_tokens_per_s == pytest.approx(96e3 / row.peer_ms)
    assert row.ours_peak_bytes > 0 and row.peer_peak_bytes > 0


def test_a_peer_that_cannot_run_leaves_the_others_their_rows() -> None:
    """The second name is no implementation; what is installed does not matter to this test."""
    pytest.importorskip("transformers")
    skipped, row = training_rows(replace(TOY, peers=("no_such_attention", "sdpa")))
    assert (
        isinstance(skipped, Skipped)
        and "no_such_attention" in skipped.name
        and "the peer cannot run: " in skipped.reason
    )
    assert isinstance(row, TrainingRow)


def test_a_peer_with_other_weights_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gate and up in each other's place."""
    pytest.importorskip("transformers")
    monkeypatch.setitem(gemma.NAMES, "channel.gate", "mlp.up_proj")
    monkeypatch.setitem(gemma.NAMES, "channel.up", "mlp.gate_proj")
    skipped, alone = training_rows(TOY)
    assert isinstance(skipped, Skipped) and "GateError" in skipped.reason
    assert isinstance(alone, Skipped) and "ours alone: " in alone.reason and "tokens/s" in alone.reason


@pytest.mark.parametrize("contender", ["our_contender", "peer_contender"])
def test_out_of_memory_of_one_contender_is_a_line_and_not_the_end(
    contender: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(gemma_gpu, contender, full)
    rows = list(training_rows(replace(TOY, peers=("sdpa", "eager"))))
    who = "ours is" if contender == "our_contender" else "the peer is"
    assert [row.reason for row in rows[:2] if isinstance(row, Skipped)] == [
        f"{who} out of memory: CUDA out of memory. Tried to allocate 2 GiB."
    ] * 2
    assert len(rows) == 3


def test_without_transformers_ours_is_measured_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemma_gpu, "find_spec", lambda name: None)
    skipped, alone = training_rows(TOY)
    assert isinstance(skipped, Skipped) and "transformers is not installed" in skipped.reason
    assert isinstance(alone, Skipped) and "tokens/s" in alone.reason


@without_cuda
def test_without_cuda_the_command_says_so_in_one_line_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gemma_gpu", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == f"gemma_gpu: skipped, {NO_CUDA}\n"


@without_cuda
def test_make_bench_gpu_without_cuda_fails_and_leaves_no_file(tmp_path: Path) -> None:
    """The target's own lines, with this Python in place of the environment that make would set up."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    program = tmp_path / ".venv" / "bin" / "arch-lab"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m arch_lab "$@"\n')
    program.chmod(0o755)
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), "-o", ".venv/.installed", "bench-gpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert NO_CUDA in done.stderr and done.stdout == ""
    assert not list((tmp_path / "runs").iterdir())


def test_the_suite_loads_where_only_torch_and_einops_are_installed() -> None:
    """GPU machines are often bare. What the command imports beside the suite is held to the same."""
    blocked = [
        "lightning",
        "datasets",
        "jsonargparse",
        "matplotlib",
        "torchmetrics",
        "tokenizers",
        "tensorboard",
        "transformers",
    ]
    modules = [
        "bench.gemma_gpu",
        "bench.suites",
        "cli.bench",
        "console",
        "study.environment",
        "study.planning",
    ]
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import {', '.join(f'arch_lab.{m}' for m in modules)}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
