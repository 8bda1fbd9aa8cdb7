"""The benchmark of operations on a GPU, at toy size on the processor: the code runs on CUDA too, the numbers mean nothing here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from arch_lab.bench import ops_gpu as suite
from arch_lab.bench.cold import ColdRow, Roof, measure_cold
from arch_lab.bench.groups import Group, OpsBench, time_group
from arch_lab.bench.protocol import GateError, Skipped
from arch_lab.cli import main

TOY = OpsBench(
    conv_width=8,
    conv_tokens=(16,),
    conv_rows=64,
    monarch_blocks=(4,),
    rows=96,
    glu_widths=(16,),
    linear_sizes=((16, 24),),
    layer_width=64,
    layer_tokens=(32,),
    layer_rows=64,
    rounds=3,
    device="cpu",
    dtype=torch.float32,
    compiled=False,
)
ROOF = Roof(bytes_per_s=1e9, flops_per_s=1e12)
without_cuda = pytest.mark.skipif(
    torch.cuda.is_available(), reason="says what happens where there is no CUDA device"
)


def test_every_group_gives_a_row_for_each_peer_both_ways() -> None:
    rows = list(suite.op_rows(TOY))
    assert not [row for row in rows if isinstance(row, Skipped)]
    peers = {
        "gated causal convolution": {"torch.fft"},
        "Monarch product": {"bmm + permutes", "dense linear"},
        "block-diagonal GLU": {"bmm", "dense GeGLU"},
        "block-diagonal linear": {"bmm", "einsum", "dense linear"},
        "M2 layer": {"the same on plain torch", "attention + dense GeGLU layer"},
    }
    for name, wanted in peers.items():
        for way in ("forward", "forward + backward"):
            found = [row for row in rows if row.name == f"{name}, {way}"]
            assert {row.peer for row in found} == wanted
            assert all(
                isinstance(row, ColdRow)
                and row.ratio > 0
                and row.share_of_roof > 0
                and row.peer_peak_bytes > 0
                for row in found
            )


def a_group(function: Callable[..., Tensor]) -> Group:
    x = torch.randn(4, 8)
    peers = {"ours": (function, (x,)), "peer": (torch.tanh, (x,))}
    return Group(
        name="toy", shape="4 x 8", contenders=peers, definition=torch.tanh, bytes_moved=(64, 160), flops=32
    )


def test_a_kernel_with_other_numbers_has_no_speed() -> None:
    with pytest.raises(GateError, match="differ"):
        list(time_group(TOY, a_group(lambda x: 1.1 * torch.tanh(x)), ROOF, backward=False))


def test_a_kernel_with_a_wrong_gradient_has_no_speed() -> None:
    with pytest.raises(GateError, match="gradient 0"):
        list(time_group(TOY, a_group(lambda x: torch.tanh(x.detach()) + 0 * x), ROOF, backward=True))


def test_a_kernel_that_cannot_run_is_a_line_with_its_reason() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("no kernel image\nand a page of details")

    (skipped,) = time_group(TOY, a_group(broken), ROOF, backward=False)
    assert isinstance(skipped, Skipped) and skipped.reason == "ours cannot run: RuntimeError: no kernel image"


def test_a_peer_that_cannot_run_leaves_the_others_their_rows() -> None:
    def broken() -> None:
        raise RuntimeError("does not compile")

    calls = {"ours": lambda: 1, "broken": broken, "peer": lambda: 2}
    skipped, row = measure_cold("toy", "-", calls, bytes_moved=1, flops=1, roof=ROOF, rounds=3, device="cpu")
    assert isinstance(skipped, Skipped) and "does not compile" in skipped.reason
    assert isinstance(row, ColdRow) and row.peer == "peer"


def test_the_share_is_of_the_roof_that_takes_longer() -> None:
    calls = {"ours": lambda: None, "peer": lambda: None}
    for bytes_moved, flops, roof in ((10**6, 1, "copy bandwidth"), (1, 10**10, "GEMM rate")):
        (row,) = measure_cold(
            "toy", "-", calls, bytes_moved=bytes_moved, flops=flops, roof=ROOF, rounds=3, device="cpu"
        )
        assert isinstance(row, ColdRow) and row.roof == roof
        assert row.share_of_roof == pytest.approx(max(bytes_moved / 1e9, flops / 1e12) / (row.ours_ms / 1e3))


@without_cuda
def test_without_a_gpu_the_suite_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ops_gpu"]) == 2
    assert suite.NO_CUDA in " ".join(capsys.readouterr().err.split())


def test_rows_become_a_table_for_a_readme(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"ours": lambda: None, "peer": lambda: None}
    rows = measure_cold("toy", "4 x 8", calls, bytes_moved=1, flops=1, roof=ROOF, rounds=3, device="cpu")
    monkeypatch.setattr(
        "arch_lab.bench.run_suite", lambda name: iter([*rows, Skipped(name="other", reason="no memory")])
    )
    file = tmp_path / "table.md"
    assert main(["bench", "ops_gpu", "--json", "--markdown", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["peer"] == "peer"
    head, rule, line, *rest = file.read_text(encoding="utf-8").splitlines()
    assert head.count("|") == rule.count("|") == line.count("|") and "of copy bandwidth" in line
    assert "Not measured: other: no memory" in rest
