"""The Monarch product CUDA kernels: their host twins anywhere, the kernels themselves where there is a GPU, both against float64.

Tolerances are relative to the largest value: the hidden values are rounded to the format, then the result, so 4 units of rounding for
16-bit formats; tf32 rounds operands to 11 bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from host_twin import MISSING_BARRIER, call, compile_twin, guards_hold, poisoned, twin
from torch import Tensor

from blocks.kernels.cuda_library import monarch, serves
from blocks.kernels.sources import kernel_source
from blocks.monarch.matrix import multiply_reference

SOURCE = "monarch.cu"
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-6, torch.float16: 2**-9}
TF32 = 2**-9
QUICK = [(16, 1), (16, 3), (16, 67), (32, 17)]  # (b, rows): one row, a part of a tile, a tile and a bit
DTYPES = [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
SIZES = [*QUICK, *(pytest.param(*size, marks=pytest.mark.slow) for size in ((32, 65), (64, 1), (64, 17)))]


class Case:
    def __init__(self, b: int, m: int, dtype: torch.dtype) -> None:
        self.b, self.m, n = b, m, b * b
        self.x, self.g = (torch.randn(m, n).to(dtype) for _ in range(2))
        self.first, self.second = ((torch.randn(b, b, b) / b**0.5).to(dtype) for _ in range(2))
        x, first, second = (t.double().requires_grad_() for t in (self.x, self.first, self.second))
        y = multiply_reference(x, (first, second))
        self.gradients = torch.autograd.grad(y, (x, first, second), self.g.double())
        self.y = y.detach()


def error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).abs().max() / wanted.abs().max()).item()


def twin_forward(library: ctypes.CDLL, case: Case, dtype: torch.dtype, tf32: int = 0) -> Tensor:
    y = poisoned(case.m, case.b**2, dtype=dtype)
    assert (
        call(library, "monarch_product", case.x, case.first, case.second, y, None, case.m, case.b, tf32) == 0
    )
    assert guards_hold(y)
    return y


def twin_backward(
    library: ctypes.CDLL, case: Case, dtype: torch.dtype, tf32: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """The launches of ``monarch.product_backward``, on this processor."""
    b, m, splits = case.b, case.m, 2
    dx, dh, by_column, hidden = (poisoned(m, b * b, dtype=dtype) for _ in range(4))
    dfirst, dsecond = (poisoned(b, b, b, dtype=dtype) for _ in range(2))
    workspace = poisoned(splits * (b**3 + b**2), dtype=torch.float32)
    first_t, second_t = case.first.mT.contiguous(), case.second.mT.contiguous()
    codes = [
        call(library, "monarch_transposed", case.g, first_t, second_t, dx, dh, by_column, m, b, tf32),
        call(library, "monarch_factor", dh, case.x, dfirst, workspace, m, b, splits, tf32),
        call(library, "monarch_product", case.x, case.first, None, None, hidden, m, b, tf32),
        call(library, "monarch_factor", by_column, hidden, dsecond, workspace, m, b, splits, tf32),
    ]
    assert codes == [0] * 4
    assert all(guards_hold(t) for t in (dx, dh, by_column, hidden, dfirst, dsecond, workspace))
    return dx, dfirst, dsecond


@pytest.mark.parametrize("b, m", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_twin_equals_the_definition_with_all_gradients(dtype: torch.dtype, b: int, m: int) -> None:
    case, library = Case(b, m, dtype), twin(SOURCE, dtype)
    assert error(twin_forward(library, case, dtype), case.y) <= TOLERANCE[dtype]
    for found, wanted in zip(twin_backward(library, case, dtype), case.gradients, strict=True):
        assert error(found, wanted) <= TOLERANCE[dtype]


def test_tf32_is_taken_only_when_asked_for() -> None:
    case, library = Case(16, 17, torch.float32), twin(SOURCE, torch.float32)
    exact, rounded = (error(twin_forward(library, case, torch.float32, tf32), case.y) for tf32 in (0, 1))
    assert exact <= TOLERANCE[torch.float32] and 20 * exact < rounded <= TF32
    for found, wanted in zip(
        twin_backward(library, case, torch.float32, tf32=1), case.gradients, strict=True
    ):
        assert error(found, wanted) <= TF32


def test_a_part_that_is_not_wanted_does_not_change_the_others() -> None:
    case, library = Case(16, 5, torch.float32), twin(SOURCE, torch.float32)
    first_t, second_t = case.first.mT.contiguous(), case.second.mT.contiguous()
    alone, together, dh, by_column, only_column = (poisoned(5, 256, dtype=torch.float32) for _ in range(5))
    assert (
        call(library, "monarch_transposed", case.g, first_t, second_t, together, dh, by_column, 5, 16, 0) == 0
    )
    assert call(library, "monarch_transposed", case.g, first_t, second_t, alone, None, None, 5, 16, 0) == 0
    assert call(library, "monarch_transposed", case.g, None, None, None, None, only_column, 5, 16, 0) == 0
    assert torch.equal(alone, together) and torch.equal(by_column, only_column)


def test_a_block_size_without_a_kernel_is_an_error_code() -> None:
    x = torch.zeros(1, 64)
    assert (
        call(twin(SOURCE, torch.float32), "monarch_product", x, x, x, x, None, 1, 8, 0) == 1
    )  # cudaErrorInvalidValue


def test_a_tile_fits_the_shared_memory_of_every_data_center_gpu_since_sm_80() -> None:
    """163 KB a block on A100 (CUDA programming guide, compute capabilities), more on H100."""
    for dtype in (torch.float32, torch.bfloat16):
        sizes = [twin(SOURCE, dtype).monarch_shared_bytes(ctypes.c_int64(b)) for b in (16, 32, 64)]
        assert all(1 < size <= 163 * 1024 for size in sizes)


def mutants(name: str, folder: Path, barrier: str) -> Iterator[Path]:
    """Copies of the sources, each with one barrier of the file ``name`` taken out."""
    for file in kernel_source(name).parent.glob("*.cu*"):
        (folder / file.name).write_text(file.read_text())
    text = kernel_source(name).read_text()
    parts = text.split(barrier)
    assert len(parts) > 1
    for place in range(1, len(parts)):
        (folder / name).write_text(barrier.join(parts[:place]) + ";" + barrier.join(parts[place:]))
        main = folder / (name if name.endswith(".cu") else "block_diagonal_gemm.cu")
        # a library of its own a mutant: one that is loaded is not loaded again
        yield main.rename(folder / f"mutant-{barrier[2:-3]}-{place}.cu")
        (folder / main.name).write_text(kernel_source(main.name).read_text())


@pytest.mark.slow
@pytest.mark.parametrize("barrier", ["m.sync_warp();", "m.sync();"])
def test_a_barrier_missing_in_the_product_is_noticed_by_the_twin(barrier: str, tmp_path: Path) -> None:
    """Every barrier in turn; on a GPU each would be a wrong number now and then."""
    case = Case(16, 3, torch.bfloat16)
    for mutant in mutants(SOURCE, tmp_path, barrier):
        library = compile_twin(mutant, "Bf16")
        y, h, dx, dh, by_column = (poisoned(3, 256, dtype=torch.bfloat16) for _ in range(5))
        codes = [
            call(library, "monarch_product", case.x, case.first, case.second, y, h, 3, 16, 0),
            call(library, "monarch_transposed", case.g, case.first, case.second, dx, dh, by_column, 3, 16, 0),
        ]
        assert MISSING_BARRIER in codes, mutant.name


@pytest.mark.slow
def test_a_barrier_missing_in_the_block_gemm_is_noticed_by_the_twin(tmp_path: Path) -> None:
    x, w, y = (torch.ones(s, dtype=torch.bfloat16) for s in ((3, 200), (2, 8, 100), (3, 16)))
    for mutant in mutants("block_gemm.cuh", tmp_path, "m.sync();"):
        assert (
            call(compile_twin(mutant, "Bf16"), "block_diagonal_linear", x, w, None, y, 3, 2, 8, 100, 0)
            == MISSING_BARRIER
        ), mutant.name


@pytest.mark.gpu
@pytest.mark.parametrize("b, m", [(16, 1), (16, 4099), (32, 17), (32, 2050), (64, 1), (64, 1003)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu_outputs_and_gradients_equal_float64(dtype: torch.dtype, b: int, m: int) -> None:
    assert serves("cuda", dtype, op="product", rows=m, k=b, q=b, p=b, l=b, s=b, r=b) is None
    case = Case(b, m, dtype)
    tolerance = TOLERANCE[dtype] * (8 if dtype is torch.float32 else 1)  # sums of up to 4099 terms
    x, g, first, second = (t.cuda() for t in (case.x, case.g, case.first, case.second))
    assert error(monarch.product_forward(x, first, second).cpu(), case.y) <= tolerance
    every = monarch.product_backward(g, x, first, second, (True, True, True))
    for found, wanted in zip(every, case.gradients, strict=True):
        assert found is not None and error(found.cpu(), wanted) <= tolerance
    for index in range(3):
        need = (index == 0, index == 1, index == 2)
        alone = monarch.product_backward(g, x, first, second, need)
        assert [t is not None for t in alone] == list(need)
        assert torch.equal(alone[index], every[index])  # type: ignore[arg-type]
