"""The functions around the CUDA C++ kernels: what they refuse, in one line, before an address is given away."""

from __future__ import annotations

import pytest
import torch

from blocks.errors import ConfigError
from blocks.kernels.cuda_library import block_diagonal, monarch, serves
from blocks.kernels.sources import KernelError

X, W, B, G = torch.zeros(3, 8), torch.zeros(2, 5, 4), torch.zeros(10), torch.zeros(3, 10)
S, F = torch.zeros(3, 256), torch.zeros(16, 16, 16)
ALL = (True, True, True)
LINEAR = {"op": "linear", "rows": 3, "k": 2, "q": 5, "p": 4}
PRODUCT = {"op": "product", "rows": 3, **dict.fromkeys("kqplsr", 16)}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: block_diagonal.linear_forward(X[:, :7], W, B), r"x must have shape \(3, 8\), got \(3, 7\)"),
        (
            lambda: block_diagonal.linear_forward(X[None], W, B),
            r"x must have shape \(rows, width\), got \(1, 3, 8\)",
        ),
        (
            lambda: block_diagonal.linear_forward(X, W[0], B),
            r"weight must have shape \(blocks, outputs, inputs\), each at least 1, got \(5, 4\)",
        ),
        (lambda: block_diagonal.linear_forward(X, W[:0], B), r"each at least 1, got \(0, 5, 4\)"),
        (lambda: block_diagonal.linear_forward(X, W, B[:9]), r"bias must have shape \(10,\), got \(9,\)"),
        (
            lambda: block_diagonal.linear_forward(X.double(), W, B),
            "x must be float32, bfloat16, float16, got float64",
        ),
        (
            lambda: block_diagonal.linear_forward(X, W.bfloat16(), B),
            "weight must be float32 like x, got bfloat16",
        ),
        (
            lambda: block_diagonal.glu_up(X[:, :4], W[:1]),
            "gate and value need an even number of blocks, got 1",
        ),
        (
            lambda: block_diagonal.linear_backward(G[:2], X, W, ALL),
            r"gradient must have shape \(3, 10\), got \(2, 10\)",
        ),
        (
            lambda: block_diagonal.linear_backward(G, X, W.half(), ALL),
            "weight must be float32 like gradient, got float16",
        ),
        (
            lambda: monarch.product_forward(S, F[:8], F),
            r"with b = 16, 32 or 64, not \(8, 16, 16\) and \(16, 16, 16\)",
        ),
        (lambda: monarch.product_forward(S[:, :255], F, F), r"x must have shape \(3, 256\), got \(3, 255\)"),
        (
            lambda: monarch.product_backward(S.half(), S, F, F, ALL),
            "x must be float16 like gradient, got float32",
        ),
    ],
)
def test_what_does_not_fit_is_one_clear_error(call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: block_diagonal.linear_forward(X, W, B),
        lambda: block_diagonal.glu_up(X, W),
        lambda: block_diagonal.linear_backward(G, X, W, ALL),
        lambda: monarch.product_forward(S, F, F),
        lambda: monarch.product_backward(S, S, F, F, ALL),
    ],
)
def test_tensors_that_are_not_on_a_cuda_device_never_reach_a_kernel(call) -> None:
    with pytest.raises(KernelError, match="must be on a CUDA device, it is on cpu"):
        call()


@pytest.mark.parametrize(
    "device, dtype, sizes, reason",
    [
        ("cpu", torch.float32, LINEAR, "it needs a CUDA device, not cpu"),
        ("cuda", torch.float64, LINEAR, "it takes float32, bfloat16, float16, not float64"),
        ("cuda", torch.complex64, PRODUCT, "it takes float32, bfloat16, float16, not complex64"),
        (
            "cuda",
            torch.float32,
            {**PRODUCT, "s": 8},
            "it takes factors (b, b, b) with b = 16, 32 or 64, not (16, 16, 16) and (16, 8, 16)",
        ),
        (
            "cuda",
            torch.float32,
            {**LINEAR, "rows": 2**40},
            "1099511627776 rows of 2 blocks are more tiles than a grid holds",
        ),
    ],
)
def test_a_kernel_that_cannot_serve_says_why_in_one_clause(
    device: str, dtype: torch.dtype, sizes: dict, reason: str
) -> None:
    assert serves(device, dtype, **sizes) == reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no CUDA device")
@pytest.mark.parametrize("sizes", [LINEAR, PRODUCT])
def test_without_a_device_nothing_is_built(sizes: dict, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCH_LAB_CACHE", str(tmp_path))
    assert serves("cuda", torch.bfloat16, **sizes) == "torch finds no CUDA device"
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_operation_is_the_callers_error() -> None:
    with pytest.raises(ConfigError, match="op must be one of linear, product, got 'convolution'"):
        serves("cuda", torch.float32, op="convolution")


@pytest.mark.gpu
def test_on_a_gpu_tensors_that_are_not_contiguous_or_aligned_give_the_same_numbers() -> None:
    x, w = torch.randn(8, 3, device="cuda").T, torch.randn(2, 4, 5, device="cuda").mT
    y = block_diagonal.linear_forward(x, w, None)
    assert torch.equal(y, block_diagonal.linear_forward(x.contiguous(), w.contiguous(), None))
    off = torch.randn(257, device="cuda")[1:].view(1, 256)
    f = torch.randn(16, 16, 16, device="cuda")
    assert torch.equal(monarch.product_forward(off, f, f), monarch.product_forward(off.clone(), f, f))


@pytest.mark.gpu
def test_on_a_gpu_no_rows_are_no_work() -> None:
    x, w = torch.empty(0, 8, device="cuda"), torch.randn(2, 5, 4, device="cuda")
    assert block_diagonal.linear_forward(x, w, None).shape == (0, 10)
    dx, dw, db = block_diagonal.linear_backward(torch.empty(0, 10, device="cuda"), x, w, ALL)
    assert (
        dx is not None
        and dx.shape == (0, 8)
        and dw is not None
        and dw.abs().max() == 0
        and db is not None
        and db.abs().max() == 0
    )
