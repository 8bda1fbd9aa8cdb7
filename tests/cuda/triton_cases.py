"""Triton kernels under Triton's interpreter against the definitions in float64, many cases in one process.

``python -m tests.cuda.triton_cases`` reads a list of cases as JSON and prints, for each, the largest error of the output and of every
gradient relative to the largest value of the truth. A process of its own: Triton decides when it is imported whether it interprets.
Fresh memory is filled with NaN, so a value that no kernel writes cannot pass. fp32 and fp16 only: the interpreter multiplies the bit
patterns of bf16.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from blocks.kernels.sources import triton_kernels
from blocks.monarch.glu import BlockDiagonalGLU, BlockDiagonalGLUConfig
from blocks.monarch.matrix import multiply_reference
from blocks.ops.block_diagonal import reference as block_diagonal_matmul_reference

Case = dict[str, Any]
Run = tuple[
    list[Tensor | None], Callable[..., Tensor], Callable[..., Tensor], Callable[..., Sequence[Tensor | None]]
]


def interpret(cases: Sequence[Case]) -> dict[str, Any]:
    """{"poisoned": fresh memory is NaN, "errors": one {"y": ..., "d0": ...} a case, "refusals": {what: message}}."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "tests.cuda.triton_cases"]
    done = subprocess.run(
        command, input=json.dumps(list(cases)), capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _linear(case: Case) -> Run:
    kernels = triton_kernels("block_diagonal")
    rows, k, q, p = (case[name] for name in ("rows", "k", "q", "p"))
    inputs = [torch.randn(rows, k * p), torch.randn(k, q, p), torch.randn(k * q) if case["bias"] else None]

    def truth(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = block_diagonal_matmul_reference(x, weight)
        return y if bias is None else y + bias

    return (
        inputs,
        truth,
        kernels.linear_forward,
        lambda g, x, weight, _, need: kernels.linear_backward(g, x, weight, need),
    )


def _glu(case: Case) -> Run:
    kernels = triton_kernels("block_diagonal")
    config = BlockDiagonalGLUConfig(
        width=case["width"], ffn_width=case["ffn_width"], blocks=case["k"], bias=case["bias"], start="fan_in"
    )
    block = BlockDiagonalGLU(config)
    inputs = [torch.randn(case["rows"], config.width), block.up.weight, block.down.weight, block.down.bias]

    def truth(x: Tensor, up: Tensor, down: Tensor, bias: Tensor | None) -> Tensor:
        values = {"up.weight": up, "down.weight": down, **({} if bias is None else {"down.bias": bias})}
        return torch.func.functional_call(block, values, (x,))

    return (
        inputs,
        truth,
        kernels.glu_forward,
        lambda g, x, up, down, _, need: kernels.glu_backward(g, x, up, down, need),
    )


def _product(case: Case) -> Run:
    kernels = triton_kernels("monarch")
    rows, k, p, l, s = (case[name] for name in ("rows", "k", "p", "l", "s"))
    inputs = [torch.randn(rows, k * p), torch.randn(k, l, p) * p**-0.5, torch.randn(l, s, k) * k**-0.5]
    return (
        inputs,
        lambda x, *factors: multiply_reference(x, factors),
        kernels.product_forward,
        kernels.product_backward,
    )


def _errors(case: Case) -> dict[str, float | None]:
    torch.manual_seed(len(str(case)))
    drawn, truth, forward, backward = {"linear": _linear, "glu": _glu, "product": _product}[case["op"]](case)
    dtype = getattr(torch, case["dtype"])
    inputs = [None if t is None else t.detach().to(dtype) for t in drawn]
    exact = [None if t is None else t.double().requires_grad_() for t in inputs]
    want = truth(*exact)
    gradient = torch.randn(want.shape).to(dtype)
    wanted = torch.autograd.grad(want, [t for t in exact if t is not None], gradient.double())
    need = tuple(case.get("need", [t is not None for t in inputs]))
    got = backward(gradient, *inputs, need)
    found: dict[str, float | None] = {"y": _error(forward(*inputs), want)}
    for i, (mine, true) in enumerate(zip(got, wanted, strict=False)):
        found[f"d{i}"] = None if mine is None else _error(mine, true)
    return found


def _error(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return ((got.double() - want).abs().max() / want.abs().max()).item()


def _refusals() -> dict[str, str]:
    linear, product = triton_kernels("block_diagonal"), triton_kernels("monarch")
    x, weight = torch.zeros(4, 6), torch.zeros(2, 5, 3)
    wide = torch.zeros(4, 256)
    attempts: dict[str, Callable[[], Any]] = {
        "strided x": lambda: linear.linear_forward(torch.zeros(6, 4).mT, weight, None),
        "strided gradient": lambda: linear.linear_backward(
            torch.zeros(10, 4).mT, x, weight, (True, True, True)
        ),
        "wrong width": lambda: linear.linear_forward(torch.zeros(4, 7), weight, None),
        "wrong dtype": lambda: linear.linear_forward(x, weight.half(), None),
        "bf16": lambda: linear.linear_forward(x.bfloat16(), weight.bfloat16(), None),
        "up of another size": lambda: linear.glu_forward(x, torch.zeros(2, 5, 3), torch.zeros(2, 3, 4), None),
        "strided factor": lambda: product.product_forward(
            wide, torch.zeros(16, 16, 16).mT, torch.zeros(16, 16, 16)
        ),
        "strided product gradient": lambda: product.product_backward(
            torch.zeros(256, 4).mT, wide, torch.zeros(16, 16, 16), torch.zeros(16, 16, 16), (True, True, True)
        ),
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            found[name] = "accepted"
        except ValueError as error:
            found[name] = str(error)
    return found


def main() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    poisoned = bool(torch.empty(64).isnan().all())
    print(
        json.dumps(
            {
                "poisoned": poisoned,
                "errors": [_errors(case) for case in json.load(sys.stdin)],
                "refusals": _refusals(),
            }
        )
    )


if __name__ == "__main__":
    main()
