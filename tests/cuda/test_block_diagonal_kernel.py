"""The block-diagonal CUDA kernels: their host twins anywhere, the kernels themselves where there is a GPU, both against float64.

Tolerances are relative to the largest value: 2 units of rounding of the result's format and, for float32, of the sums' growth (at most a
few hundred terms here); tf32 rounds operands to 11 bits, so 2^-11 a factor.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from host_twin import call, guards_hold, placed, poisoned, twin
from torch import Tensor

from blocks.kernels.cuda_library import block_diagonal, serves
from blocks.ops.block_diagonal import reference as block_diagonal_matmul_reference

SOURCE = "block_diagonal_gemm.cu"
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
TF32 = 2**-10
# (rows, blocks, outputs, inputs): one number; narrower than a chunk; odd everywhere; edges just past a tile of 128 x 64; several K steps
SHAPES = [(1, 1, 1, 1), (3, 2, 9, 5), (17, 4, 24, 33), (129, 2, 72, 40), (2, 2, 130, 16)]
DTYPES = [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert guards_hold(found), "written outside the output"
    error = (found.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)
    assert error <= tolerance, f"relative error {error:.2e}"  # NaN fails too


class Case:
    """Rounded operands, and what float64 makes of them."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, offset: int = 0) -> None:
        self.m, self.k, self.q, self.p = m, k, q, p = shape
        self.sizes = shape
        self.x, self.w, self.b, self.g = (
            placed(torch.randn(s).to(dtype), offset) for s in ((m, k * p), (k, q, p), (k * q,), (m, k * q))
        )
        x, w = self.x.double().requires_grad_(), self.w.double().requires_grad_()
        self.product = block_diagonal_matmul_reference(x, w)
        self.dx, self.dw = torch.autograd.grad(self.product, (x, w), self.g.double())
        self.db = self.g.double().sum(0)
        self.product = self.product.detach()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_twin_of_the_forward_kernel_equals_the_definition(
    dtype: torch.dtype, shape: tuple[int, int, int, int], bias: bool
) -> None:
    case = Case(shape, dtype)
    y = poisoned(case.m, case.k * case.q, dtype=dtype)
    assert (
        call(
            twin(SOURCE, dtype),
            "block_diagonal_linear",
            case.x,
            case.w,
            case.b if bias else None,
            y,
            *case.sizes,
            0,
        )
        == 0
    )
    close(y, case.product + case.b.double() * bias, TOLERANCE[dtype])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_twins_of_the_backward_kernels_equal_the_gradients_in_float64(
    dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    case, library, splits = Case(shape, dtype), twin(SOURCE, dtype), 3
    m, k, q, p = shape
    dx, dw, db = poisoned(m, k * p, dtype=dtype), poisoned(k, q, p, dtype=dtype), poisoned(k * q, dtype=dtype)
    workspace = poisoned(splits * (k * q * p + k * q), dtype=torch.float32)
    assert call(library, "block_diagonal_dx", case.g, case.w, dx, *case.sizes, 0) == 0
    assert (
        call(library, "block_diagonal_dweight", case.g, case.x, dw, db, workspace, *case.sizes, splits, 0)
        == 0
    )
    assert guards_hold(workspace)
    for found, wanted in ((dx, case.dx), (dw, case.dw), (db, case.db)):
        close(found, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] % 2 == 0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_twin_of_the_gated_kernel_equals_gelu_of_one_half_times_the_other(
    dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    case = Case(shape, dtype)
    y = poisoned(case.m, case.k // 2 * case.q, dtype=dtype)
    assert call(twin(SOURCE, dtype), "block_diagonal_gated", case.x, case.w, y, *case.sizes, 0) == 0
    gate, value = case.product.chunk(2, dim=-1)
    close(y, F.gelu(gate) * value, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_off_a_16_byte_boundary_take_the_scalar_path_to_the_same_bits(dtype: torch.dtype) -> None:
    shape, results = (5, 2, 16, 24), []
    for offset in (0, 1):
        torch.manual_seed(1)
        case, library = Case(shape, dtype, offset), twin(SOURCE, dtype)
        m, k, q, p = shape
        y, dx = poisoned(m, k * q, dtype=dtype, offset=offset), poisoned(m, k * p, dtype=dtype, offset=offset)
        dw, workspace = (
            poisoned(k, q, p, dtype=dtype, offset=offset),
            poisoned(k * q * p + k * q, dtype=torch.float32),
        )
        assert call(library, "block_diagonal_linear", case.x, case.w, case.b, y, *shape, 0) == 0
        assert call(library, "block_diagonal_dx", case.g, case.w, dx, *shape, 0) == 0
        assert call(library, "block_diagonal_dweight", case.g, case.x, dw, None, workspace, *shape, 1, 0) == 0
        assert guards_hold(y) and guards_hold(dx) and guards_hold(dw)
        results.append((y, dx, dw))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_tf32_is_taken_only_when_asked_for() -> None:
    case, library = Case((17, 4, 24, 33), torch.float32), twin(SOURCE, torch.float32)
    wanted = case.product + case.b.double()
    errors = []
    for tf32 in (0, 1):
        y = poisoned(case.m, case.k * case.q, dtype=torch.float32)
        assert call(library, "block_diagonal_linear", case.x, case.w, case.b, y, *case.sizes, tf32) == 0
        close(y, wanted, TF32 if tf32 else TOLERANCE[torch.float32])
        errors.append((y.double() - wanted).abs().max())
    assert errors[1] > 20 * errors[0]


def test_the_number_of_splits_does_not_change_the_bits_of_two_runs_and_no_rows_give_zeros() -> None:
    library, (m, k, q, p) = twin(SOURCE, torch.float32), (40, 2, 9, 5)
    case = Case((m, k, q, p), torch.float32)
    runs = []
    for splits in (4, 4, 64):  # 64: more ranges than rows, most of them empty
        dw, workspace = (
            poisoned(k, q, p, dtype=torch.float32),
            poisoned(splits * (k * q * p + k * q), dtype=torch.float32),
        )
        assert (
            call(
                library, "block_diagonal_dweight", case.g, case.x, dw, None, workspace, m, k, q, p, splits, 0
            )
            == 0
        )
        runs.append(dw)
    assert torch.equal(runs[0], runs[1])
    close(runs[2], case.dw, TOLERANCE[torch.float32])
    assert call(library, "block_diagonal_dweight", case.g, case.x, dw, None, workspace, 0, k, q, p, 1, 0) == 0
    assert dw.abs().max() == 0


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [*SHAPES, (4097, 4, 192, 192), (1000, 4, 768, 192)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu_outputs_and_gradients_equal_float64(
    dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    m, k, q, p = shape
    assert serves("cuda", dtype, op="linear", rows=m, k=k, q=q, p=p) is None
    case = Case(shape, dtype)
    x, w, b, g = (t.cuda() for t in (case.x, case.w, case.b, case.g))
    tolerance = TOLERANCE[dtype] * (8 if dtype is torch.float32 else 1)  # sums of up to 4097 terms
    scale = lambda found, wanted: ((found.cpu().double() - wanted).abs().max() / wanted.abs().max()).item()  # noqa: E731
    assert scale(block_diagonal.linear_forward(x, w, b), case.product + case.b.double()) <= tolerance
    assert scale(block_diagonal.linear_forward(x, w, None), case.product) <= tolerance
    for found, wanted in zip(
        block_diagonal.linear_backward(g, x, w, (True, True, True)), (case.dx, case.dw, case.db), strict=True
    ):
        assert found is not None and scale(found, wanted) <= tolerance
    if k % 2 == 0:
        gate, value = case.product.chunk(2, dim=-1)
        assert scale(block_diagonal.glu_up(x, w), F.gelu(gate) * value) <= tolerance


@pytest.mark.gpu
def test_on_a_gpu_two_backward_passes_give_the_same_bits() -> None:
    x, g, w = (
        torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in ((5000, 768), (5000, 768), (4, 192, 192))
    )
    one, two = (block_diagonal.linear_backward(g, x, w, (True, True, True)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True) if a is not None and b is not None)
