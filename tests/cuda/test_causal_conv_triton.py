"""The gated causal convolution kernels without a GPU: run by Triton's interpreter, compiled for real targets.

Numbers come from tests/cuda/causal_conv_cases.py, one process for all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from blocks.kernels.sources import triton_kernels

pytest.importorskip("triton", reason="Triton kernels need Triton (pip install 'arch-lab[triton]')")

# after the skip: the list of builds asks the kernels for their tiles
from tests.cuda.causal_conv_builds import BUILDS, Build
from tests.cuda.causal_conv_cases import Case, errors, leaks

ROOT = Path(__file__).resolve().parents[2]
SIZES = ["quick", pytest.param("slow", marks=pytest.mark.slow)]
# float32 sums of T products round at 1e-7 of the scale times a few; float16 operands and outputs carry 2**-11, twice over
FLOAT32, FLOAT16, BFLOAT16 = 2e-6, 2e-3, 1.6e-2


@cache
def interpreted(size: str) -> dict[str, Any]:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.cuda.causal_conv_cases", size]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def bound(case: str) -> float:
    return (
        BFLOAT16 if "dtype=torch.bfloat16" in case else FLOAT16 if "dtype=torch.float16" in case else FLOAT32
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ["toeplitz", "monarch"])
def test_outputs_and_all_four_gradients_are_those_of_the_definition(path: str, size: str) -> None:
    found = interpreted(size)[path]
    wrong = [
        (case, name, error)
        for case, errors in found
        for name, error in errors.items()
        if not error < bound(case)
    ]
    assert found and not wrong


@pytest.mark.parametrize("size", SIZES)
def test_no_bit_of_the_past_moves_when_the_future_changes(size: str) -> None:
    for case, moves in interpreted(size)["exact"]:
        assert moves.pop("the future itself") > 0.1, case
        assert set(moves.values()) == {0.0}, (case, moves)


@pytest.mark.parametrize("size", SIZES)
def test_transforms_carry_no_more_than_float32_rounding_into_the_past(size: str) -> None:
    for case, moves in interpreted(size)["rounding"]:
        assert moves.pop("the future itself") > 0.1, case
        assert all(0 <= move < 1e-6 for move in moves.values()), (case, moves)


@pytest.mark.parametrize("path", ["subsets", "subsets of transforms"])
def test_a_gradient_has_the_same_bits_whichever_others_are_asked_for(path: str) -> None:
    same = interpreted("quick")[path]
    assert len(same) == 4 and all(same.values()), same


# what a model's lengths start on a Hopper GPU
QUICK = [
    b
    for b in BUILDS
    if b.dtype == "bf16" and b.capability == 90 and not b.odd and (b.warps == 8 or not b.products)
]
REST = [pytest.param(build, marks=pytest.mark.slow) for build in BUILDS if build not in QUICK]


@pytest.mark.parametrize("build", [*QUICK, *REST], ids=str)
def test_a_kernel_compiles_without_spills_and_fits(build: Build) -> None:
    made = build.resources()
    assert made.faults(build.capability) == []
    assert made.mma == build.products


def test_kernels_say_in_a_clause_what_they_cannot_do() -> None:
    kernels = triton_kernels("causal_conv")
    fits: dict[str, Any] = {"channels": 768, "batch": 32, "tokens": 2048, "taps": 2048, "short_taps": 3}
    assert kernels.serves("cuda", torch.bfloat16, **fits) is None
    assert kernels.serves("cuda", torch.float32, **{**fits, "tokens": 2049, "taps": 1}) is None
    refused = [
        kernels.serves("cpu", torch.float32, **fits),
        kernels.serves("cuda", torch.float64, **fits),
        kernels.serves("cuda", torch.bfloat16, op="mixer", **fits),
        kernels.serves("cuda", torch.bfloat16, **{**fits, "short_taps": 17}),
        kernels.serves("cuda", torch.bfloat16, **{**fits, "tokens": 0}),
        kernels.serves("cuda", torch.bfloat16, **{**fits, "channels": 70_000}),
        kernels.serves("cuda", torch.bfloat16, **{**fits, "batch": 2**20}),
    ]
    assert all(reason and "\n" not in reason for reason in refused) and len(set(refused)) == len(refused)


def test_low_precision_stays_exactly_causal_at_every_length_a_model_is_trained_at() -> None:
    algorithm = triton_kernels("causal_conv").algorithm
    for dtype in (torch.bfloat16, torch.float16):
        assert algorithm(dtype, tokens=65536, taps=65536) == "toeplitz"
    assert algorithm(torch.float32, tokens=2048, taps=2048) == "toeplitz"
    assert algorithm(torch.float32, tokens=4096, taps=4096) == "monarch"
    assert (
        algorithm(torch.float32, tokens=65536, taps=64) == "toeplitz"
    )  # few taps: few blocks, however long the sequence


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(3, 3, 65, 65), (5, 7, 257, 130), (16, 8, 1024, 1024), (4, 3, 2048, 2500), (2, 3, 2500, 2500)]
)
def test_a_gpu_computes_the_definition_and_keeps_the_past(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    kernels, case = triton_kernels("causal_conv"), Case(*shape, dtype=dtype)
    assert max(errors(kernels, case, "cuda").values()) < bound(str(case))
    moves = leaks(kernels, case, case.T // 2, 1.0, "cuda")
    assert moves.pop("the future itself") > 0.1
    exact = kernels.algorithm(dtype, tokens=case.T, taps=case.S) == "toeplitz"
    assert max(moves.values()) <= (0.0 if exact else 1e-6)
