"""A kernel is chosen by itself only after it gave the right numbers on the device at hand."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from blocks.convolution.gated_causal import gated_backward, gated_forward
from blocks.dispatch import VARIABLE, operation, operations
from blocks.dispatch.operations import OPERATIONS
from blocks.ops.block_diagonal import linear_backward, linear_forward
from blocks.ops.glu import glu_backward, glu_forward
from blocks.ops.monarch import product_backward, product_forward

NAME = "block_diagonal_matmul"


def output(found: Any) -> Tensor:
    """Without what the cpu implementation keeps for its backward pass."""
    return found[0] if isinstance(found, tuple) else found


# the cpu implementations in the place of kernels: right numbers from code that the reference shares nothing with
NOTHING = torch.empty(0)  # kept of a forward pass, so that backward computes it again
RIGHT: dict[str, tuple[Any, Any]] = {
    "block_diagonal_matmul": (linear_forward, linear_backward),
    "block_diagonal_glu": (
        lambda *x: output(glu_forward(*x)),
        partial(glu_backward, hidden=NOTHING, activated=NOTHING),
    ),
    "monarch_matmul": (lambda *x: output(product_forward(*x)), partial(product_backward, hidden=NOTHING)),
    "causal_conv": (
        lambda *x: output(gated_forward(*x)),
        lambda *x: gated_backward(*x, NOTHING, NOTHING),
    ),
}


@pytest.fixture(autouse=True)
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(operations, "_loaded", {})
    monkeypatch.setattr(operations, "_mismatches", {})


def why(
    monkeypatch: pytest.MonkeyPatch,
    name: str = NAME,
    *,
    forward: Any = None,
    backward: Any = None,
    serves: Any = None,
) -> str:
    kernels = operation(name).kernels["triton"]
    functions = {kernels.forward: forward or RIGHT[name][0], kernels.backward: backward or RIGHT[name][1]}
    loaded = SimpleNamespace(serves=serves or (lambda device, dtype, **sizes: None), **functions)
    monkeypatch.setitem(operations._loaded, (name, "triton"), loaded)
    return operations._mismatch(name, "triton", "cpu", torch.float32)


@pytest.mark.parametrize("name", OPERATIONS)
def test_right_numbers_are_a_proof(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why(monkeypatch, name) == ""


def test_wrong_outputs_are_said_with_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    said = why(monkeypatch, forward=lambda *x: 1.01 * linear_forward(*x))
    assert said.startswith("its outputs differ from plain torch by") and "1.0e-02" in said


def test_one_wrong_row_at_the_edge_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*x: Tensor) -> Tensor:
        y = linear_forward(*x)
        y[-1] = float("nan")
        return y

    assert "outputs" in why(monkeypatch, forward=forward)


def test_a_wrong_gradient_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def backward(*x: Any) -> Any:
        dx, dweight, dbias = linear_backward(*x)
        assert dweight is not None
        return dx, dweight.flip(0), dbias

    assert "gradients of input 2" in why(monkeypatch, backward=backward)


def test_a_kernel_that_fails_is_left_out_with_the_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*x: Tensor) -> Tensor:
        raise RuntimeError("an illegal instruction\nand more")

    assert why(monkeypatch, forward=forward) == "it fails on this device: an illegal instruction"


def test_it_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def forward(*x: Tensor) -> Tensor:
        calls.append(x)
        return linear_forward(*x)

    assert (
        why(monkeypatch, forward=forward) == "" == operations._mismatch(NAME, "triton", "cpu", torch.float32)
    )
    assert len(calls) == 1


def test_sizes_it_does_not_serve_are_not_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*x: Tensor) -> Tensor:
        raise AssertionError("never called")

    assert why(monkeypatch, forward=forward, serves=lambda device, dtype, **sizes: "too small") == ""


def test_the_callers_random_numbers_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_rng_state()
    why(monkeypatch)
    assert torch.equal(before, torch.get_rng_state())


def test_a_disproved_kernel_is_not_chosen_and_the_reason_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice on a GPU, with the two places that need one answered in its stead."""
    monkeypatch.setattr(
        operations.Operation, "why_not", lambda self, name, *rest: "not built" if name == "cuda" else None
    )
    monkeypatch.setattr(operations, "_mismatch", lambda *key: "its outputs differ")
    choice = operation(NAME).choose("cuda", torch.float32, operation(NAME).example)
    assert choice.implementation == "reference" and "triton: its outputs differ" in choice.reason
    monkeypatch.setattr(operations, "_mismatch", lambda *key: "")
    assert operation(NAME).choose("cuda", torch.float32, operation(NAME).example).implementation == "triton"
