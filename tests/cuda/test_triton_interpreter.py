"""The Triton kernels compute what the blocks compute, gradients included, on the sizes that break tiles. No GPU: Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from tests.cuda.triton_cases import Case, interpret

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


# fp32: sums of at most a few hundred products of size one, 2^-24 each and a square root of their number; fp16: inputs and results of 11
# bits, hidden values rounded once more
TOLERANCE = {"float32": 2e-6, "float16": 4e-3}


def _linear(
    rows: int, k: int, q: int, p: int, *, bias: bool = True, dtype: str = "float32", **more: Any
) -> Case:
    return {"op": "linear", "rows": rows, "k": k, "q": q, "p": p, "bias": bias, "dtype": dtype, **more}


def _glu(
    rows: int, k: int, p: int, h: int, *, bias: bool = True, dtype: str = "float32", **more: Any
) -> Case:
    return {
        "op": "glu",
        "rows": rows,
        "k": k,
        "width": k * p,
        "ffn_width": k * h,
        "bias": bias,
        "dtype": dtype,
        **more,
    }


def _product(rows: int, k: int, p: int, l: int, s: int, *, dtype: str = "float32", **more: Any) -> Case:
    return {"op": "product", "rows": rows, "k": k, "p": p, "l": l, "s": s, "dtype": dtype, **more}


CASES = [
    _linear(1, 2, 3, 5),
    _linear(3, 6, 24, 40, bias=False),
    _linear(17, 4, 48, 20, dtype="float16"),
    _linear(65, 1, 100, 33),
    _linear(130, 2, 7, 9),  # two ranges of rows in the weight kernel
    _linear(5, 2, 8, 8, need=[False, True, False]),
    _linear(5, 2, 8, 8, need=[True, False, True]),
    _glu(1, 2, 3, 5),
    _glu(3, 6, 8, 18),  # hidden channels end inside a tile
    _glu(17, 4, 5, 16, bias=False),
    _glu(17, 2, 40, 20, dtype="float16"),  # 40 channels are two tiles, 32 + 16
    _glu(33, 2, 48, 18),
    _glu(65, 2, 4, 8),  # two ranges of rows in the weight kernel
    _glu(5, 2, 8, 8, need=[False, True, False, False]),
    _glu(5, 2, 8, 8, need=[True, False, False, True]),
    _product(1, 16, 16, 16, 16),
    _product(35, 16, 16, 16, 16, need=[True, False, False]),  # three tiles of rows, the last one short
    _product(67, 16, 16, 16, 16, need=[False, True, True]),  # two ranges of rows in the weight kernel
    _product(3, 32, 16, 16, 32),  # fp32 digits of 32: a pass for each factor
    _product(3, 16, 16, 16, 16, need=[True, True, False]),
    _product(3, 16, 32, 32, 16, dtype="float16"),
]
LARGE = [
    _linear(200, 4, 192, 192),
    _linear(129, 4, 768, 192),
    _linear(65, 4, 96, 130, dtype="float16"),
    _glu(65, 4, 96, 200),
    _glu(70, 4, 192, 96),  # 192 channels are two tiles, 128 + 64
    _glu(40, 2, 256, 70, dtype="float16"),
    _product(65, 32, 32, 32, 32),
    _product(33, 16, 32, 32, 16),
    _product(17, 64, 16, 32, 64, dtype="float16"),
    _product(33, 64, 64, 64, 64, dtype="float16"),
]


@pytest.fixture(scope="module")
def quick() -> dict[str, Any]:
    return interpret(CASES)


def _name(case: Case) -> str:
    return "-".join(
        f"{value}" if isinstance(value, str) else f"{name}{value}" for name, value in case.items()
    )


def _check(case: Case, errors: dict[str, float | None]) -> None:
    asked = case.get("need", [True] * (len(errors) - 1))
    for name, error in errors.items():
        if name != "y" and not asked[int(name[1:])]:
            assert error is None, f"{name} was not asked for"
        else:
            assert error is not None and error <= TOLERANCE[case["dtype"]], f"{name} is off by {error}"


@pytest.mark.parametrize("at", range(len(CASES)), ids=lambda at: _name(CASES[at]))
def test_the_kernels_give_the_outputs_and_gradients_of_the_definition(at: int, quick: dict[str, Any]) -> None:
    _check(CASES[at], quick["errors"][at])


@pytest.mark.slow
def test_the_kernels_give_the_outputs_and_gradients_of_the_definition_at_model_sizes() -> None:
    for case, errors in zip(LARGE, interpret(LARGE)["errors"], strict=True):
        _check(case, errors)


def test_fresh_memory_was_poisoned_so_that_no_kernel_can_leave_a_value_out(quick: dict[str, Any]) -> None:
    assert quick["poisoned"]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("strided x", "x is not contiguous; pass x.contiguous()"),
        ("strided gradient", "gradient is not contiguous; pass gradient.contiguous()"),
        ("wrong width", "x must be (4, 6) of torch.float32, got (4, 7) of torch.float32"),
        ("wrong dtype", "weight must be (2, 5, 3) of torch.float32, got (2, 5, 3) of torch.float16"),
        ("bf16", "Triton's interpreter multiplies the bit patterns of bfloat16"),
        ("up of another size", "up must be (2, 8, 3) of torch.float32, got (2, 5, 3) of torch.float32"),
        ("strided factor", "first is not contiguous; pass first.contiguous()"),
        ("strided product gradient", "gradient is not contiguous; pass gradient.contiguous()"),
    ],
)
def test_what_a_kernel_cannot_take_is_refused_with_the_reason(
    what: str, says: str, quick: dict[str, Any]
) -> None:
    message = quick["refusals"][what]
    assert message.endswith(says) and message.startswith(
        ("block-diagonal kernel: ", "Monarch product kernel: ")
    )


@pytest.fixture
def serves() -> Callable[..., str | None]:
    import torch

    from blocks.kernels.sources import triton_kernels

    def ask(source: str, dtype: str = "bfloat16", device: str = "cuda", **sizes: Any) -> str | None:
        return triton_kernels(source).serves(device, getattr(torch, dtype), **sizes)

    return ask


LINEAR = {"op": "linear", "rows": 8, "k": 4, "q": 192, "p": 192}
GLU = {"op": "glu", "rows": 8, "width": 768, "ffn_width": 3072, "k": 4}
PRODUCT = {"op": "product", "rows": 8, "k": 32, "q": 32, "p": 32, "l": 32, "s": 32, "r": 32}


@pytest.mark.parametrize(
    ("source", "sizes"), [("block_diagonal", LINEAR), ("block_diagonal", GLU), ("monarch", PRODUCT)]
)
def test_serves_takes_the_sizes_of_the_published_models_on_a_gpu_and_none_on_a_cpu(
    source: str, sizes: dict[str, Any], serves: Callable[..., str | None]
) -> None:
    assert [serves(source, dtype, **sizes) for dtype in ("float32", "bfloat16", "float16")] == [None] * 3
    assert serves(source, device="cpu", **sizes) == "Triton kernels need a CUDA device, not cpu"
    assert (
        serves(source, "float64", **sizes)
        == "no kernel for torch.float64, only float32, bfloat16 and float16"
    )


@pytest.mark.parametrize(
    ("source", "sizes", "reason"),
    [
        ("block_diagonal", {**LINEAR, "op": "mlp"}, "no kernel for op 'mlp', only linear and glu"),
        (
            "block_diagonal",
            {**GLU, "k": 3},
            "gate and value are cut inside a block when the number of blocks is odd (3)",
        ),
        ("block_diagonal", {**GLU, "ffn_width": 3074}, "4 blocks do not divide width 768 and ffn_width 3074"),
        (
            "block_diagonal",
            {**GLU, "k": 2},
            "a block of 384 channels of torch.bfloat16 does not fit on chip, at most 256",
        ),
        (
            "monarch",
            {**PRODUCT, "q": 64},
            "factors (32, 64, 32) and (32, 32, 32) are not of rank 1 (q = l, r = k)",
        ),
        (
            "monarch",
            {**PRODUCT, "p": 24},
            "digits 32, 24, 32, 32 are not all among 16, 32, 64, those whose tiles of torch.bfloat16 fit on chip",
        ),
    ],
)
def test_serves_says_why_it_refuses(
    source: str, sizes: dict[str, Any], reason: str, serves: Callable[..., str | None]
) -> None:
    assert serves(source, **sizes) == reason


def test_the_widest_blocks_depend_on_the_bytes_of_a_number(serves: Callable[..., str | None]) -> None:
    wide = {**GLU, "width": 1024, "ffn_width": 4096}
    assert serves("block_diagonal", **wide) is None
    assert (
        serves("block_diagonal", "float32", **wide)
        == "a block of 256 channels of torch.float32 does not fit on chip, at most 192"
    )
    large = {name: 64 if name in "kqplsr" else value for name, value in PRODUCT.items()}
    assert serves("monarch", **large) is None
    assert "16, 32, those" in (serves("monarch", "float32", **large) or "")
