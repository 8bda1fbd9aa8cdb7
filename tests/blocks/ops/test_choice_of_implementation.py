"""Which implementation of an operation runs: by device and sizes, by request, and when a kernel is not to be had."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from blocks.dispatch import VARIABLE, Choice, operation, operations, report, requests, use_implementation
from blocks.dispatch.operations import OPERATIONS
from blocks.dispatch.requests import KERNELS
from blocks.errors import ConfigError
from blocks.kernels.sources import KernelError
from blocks.ops.block_diagonal import (
    FEW_NUMBERS,
    FEW_ROWS,
    block_diagonal_matmul,
    linear_backward,
    linear_forward,
)

LINEAR = {"rows": FEW_ROWS, "k": 2, "q": 3, "p": 2}


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No request from outside, no kernel loaded, nothing logged yet."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(operations, "_loaded", {})
    monkeypatch.setattr("blocks.dispatch.choice._logged", set())
    monkeypatch.setattr(
        operations, "_mismatch", lambda *key: ""
    )  # there is no GPU to prove anything on: test_kernel_proof.py
    with use_implementation(""):
        yield


def choose(
    device: str = "cpu", dtype: torch.dtype = torch.float32, implementation: str | None = None, **sizes: int
) -> Choice:
    return operation("block_diagonal_matmul").choose(device, dtype, LINEAR | sizes, implementation)


def inputs(rows: int = FEW_ROWS) -> list[Tensor]:
    return [torch.randn(shape, requires_grad=True) for shape in ((rows, 4), (2, 3, 2), (6,))]


def kernels(monkeypatch: pytest.MonkeyPatch, name: str = "triton", **functions: Any) -> None:
    """A kernel module in place of the loaded one."""
    given = {
        "serves": lambda device, dtype, **sizes: None,
        "linear_forward": linear_forward,
        "linear_backward": linear_backward,
    }
    monkeypatch.setitem(
        operations._loaded, ("block_diagonal_matmul", name), SimpleNamespace(**{**given, **functions})
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_processor_runs_cpu_and_says_in_what_form(name: str) -> None:
    op = operation(name)
    choice = op.choose("cpu", torch.float32, op.example)
    assert choice.implementation == "cpu" and choice.reason
    assert op.choose("cpu", torch.complex64, op.example).implementation == "reference"
    assert op.choose("meta", torch.float32, op.example, "triton").implementation == "cpu"


def test_small_products_take_no_operator_and_the_choice_says_so() -> None:
    small, large = FEW_NUMBERS // 6, FEW_NUMBERS // 6 + 1  # rows of 6 outputs
    assert "no operator" in choose(rows=small).reason and "no operator" not in choose(rows=large).reason
    names = [type(block_diagonal_matmul(*inputs(rows)).grad_fn).__name__ for rows in (small, large)]
    assert "block_diagonal" not in names[0] and "block_diagonal" in names[1]


def test_a_gpu_runs_the_first_kernel_that_serves_and_else_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels(
        monkeypatch, "triton", serves=lambda device, dtype, **sizes: "too wide" if sizes["p"] > 8 else None
    )
    kernels(
        monkeypatch,
        "cuda",
        serves=lambda device, dtype, **sizes: None if dtype == torch.float32 else f"no {dtype}",
    )
    assert choose("cuda").implementation == "triton"
    assert choose("cuda", p=9).implementation == "cuda"
    choice = choose("cuda", torch.float16, p=9)
    assert choice.implementation == "reference"
    assert choice.reason == "triton: too wide; cuda: no torch.float16"


def test_kernels_learn_every_size_under_the_name_they_know(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    kernels(
        monkeypatch,
        serves=lambda device, dtype, **sizes: seen.append({"device": device, "dtype": dtype, **sizes}),
    )
    choose("cuda", torch.bfloat16)
    assert seen == [{"device": "cuda", "dtype": torch.bfloat16, "op": "linear", **LINEAR}]


def test_argument_beats_context_and_context_beats_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cpu")
    with use_implementation("causal_conv=reference, block_diagonal_matmul=reference"):
        assert choose() == Choice(
            implementation="reference", reason="named by use_implementation()", requested=True
        )
        assert choose(implementation="cpu").reason == "named by the caller"
    requests._context.set(None)
    assert choose().reason == "named by ARCH_LAB_OPS"
    monkeypatch.setenv(VARIABLE, "reference,causal_conv=cpu")
    found = {
        name: operation(name).choose("cpu", torch.float32, operation(name).example).implementation
        for name in OPERATIONS
    }
    assert found == dict.fromkeys(OPERATIONS, "reference") | {"causal_conv": "cpu"}


@pytest.mark.parametrize(
    "names, message",
    [
        ("refrence", "unknown implementation 'refrence'; did you mean 'reference'"),
        ("causal_cov=cpu", "unknown operation 'causal_cov'; did you mean 'causal_conv'"),
        ("causal_conv=", "unknown implementation ''"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(
    names: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=message), use_implementation(names):
        pass
    requests._context.set(None)
    monkeypatch.setenv(VARIABLE, names)
    with pytest.raises(ConfigError, match=message):
        block_diagonal_matmul(*inputs())
    assert {entry["float32"].runs for entry in report("cpu").values()} == {None}


@pytest.mark.parametrize(
    "name, reason",
    [("triton", "no CUDA device|on no CUDA device"), ("cuda", "no CUDA device|on no CUDA device")],
)
def test_what_is_named_and_cannot_run_is_an_error_from_every_source(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ConfigError, match=f"block_diagonal_matmul: '{name}', named by the caller, cannot run: .*({reason})"
    ):
        block_diagonal_matmul(*inputs(), implementation=name)
    with pytest.raises(ConfigError, match="named by use_implementation"), use_implementation(name):
        block_diagonal_matmul(*inputs())
    requests._context.set(None)
    monkeypatch.setenv(VARIABLE, f"block_diagonal_matmul={name}")
    with pytest.raises(ConfigError, match="named by ARCH_LAB_OPS"):
        block_diagonal_matmul(*inputs())
    with pytest.raises(
        ConfigError, match="'cuda', named by the caller, cannot run: no such kernel has been written"
    ):
        operation("causal_conv").choose("cuda", torch.float32, operation("causal_conv").example, "cuda")


def test_a_named_kernel_runs_processor_tensors_under_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ran.append("forward")
        assert all(t is None or (t.is_contiguous() and t.data_ptr() % 16 == 0) for t in (x, weight, bias))
        return linear_forward(x, weight, bias)

    def backward(
        gradient: Tensor, x: Tensor, weight: Tensor, need: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        ran.append(f"backward {need}")
        assert gradient.is_contiguous()
        return linear_backward(gradient, x, weight, need)

    kernels(monkeypatch, linear_forward=forward, linear_backward=backward)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x, weight, bias = inputs(3)
    odd = torch.cat([torch.zeros(1), weight.detach().flatten()])[1:].view(weight.shape).requires_grad_()
    y = block_diagonal_matmul(x.mT.contiguous().mT, odd, bias.detach(), implementation="triton")
    y.sum().backward()  # an expanded gradient
    assert ran == ["forward", "backward (True, True, False)"]
    expected = block_diagonal_matmul(x, weight, bias.detach(), implementation="reference")
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(odd.grad, torch.autograd.grad(expected.sum(), weight)[0])


class CompilationError(Exception):
    """As Triton's: recognised by where it comes from."""

    __module__ = "triton.compiler.errors"


@pytest.mark.parametrize(
    "error",
    [KernelError("nvcc: not found\nmore"), CompilationError("no such instruction"), OSError("cannot load")],
)
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_a_kernel_that_cannot_be_built_gives_way_once_and_says_why(
    error: Exception, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Tensor:
        raise error

    kernels(monkeypatch, **{f"linear_{way}": fails})
    given = inputs()
    with caplog.at_level(logging.INFO, logger="blocks.dispatch"):
        for _ in range(2):
            y = torch.ops.blocks.block_diagonal_matmul(*given, "triton")
            found = torch.autograd.grad(y.sum(), given)
    expected = block_diagonal_matmul(*given, implementation="reference")
    torch.testing.assert_close(y, expected)
    for a, b in zip(found, torch.autograd.grad(expected.sum(), given), strict=True):
        torch.testing.assert_close(a, b)
    reason = str(error).partition("\n")[0]
    assert [r.getMessage() for r in caplog.records] == [
        f"block_diagonal_matmul: the triton kernel gives way to plain torch: {reason}"
    ]
    assert reason in choose("cuda").reason and choose("cuda").implementation != "triton"


def test_a_named_kernel_that_cannot_be_built_does_not_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Tensor:
        raise KernelError("nvcc: not found")

    kernels(monkeypatch, linear_forward=fails)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ConfigError, match="'triton' was named and cannot run: nvcc: not found"):
        block_diagonal_matmul(*inputs(), implementation="triton")


def test_a_kernel_that_computes_wrongly_is_no_build_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Tensor:
        raise RuntimeError("illegal memory access")

    kernels(monkeypatch, linear_forward=fails)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        torch.ops.blocks.block_diagonal_matmul(*inputs(), "triton")


def test_each_distinct_decision_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="blocks.dispatch"):
        for rows in (1, 2, FEW_ROWS, 1):
            block_diagonal_matmul(*inputs(rows))
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "block_diagonal_matmul runs cpu"
    ] * 2


def test_the_report_names_what_runs_and_why_the_others_do_not() -> None:
    found = report("cpu", (torch.float32, torch.bfloat16))
    assert list(found) == list(OPERATIONS)
    for entry in found.values():
        assert list(entry) == ["float32", "bfloat16"]
        assert entry["float32"].runs == "cpu" and set(entry["float32"].others) == set(KERNELS) - {"cpu"}
        assert all(entry["float32"].others.values())
