"""The CUDA C++ kernels as functions on tensors: block-diagonal linear maps and the order-2 Monarch product.

Legend: M rows; K blocks, Q outputs and P inputs of a block; b block size of a square Monarch product, n = b².
``serves`` says whether a kernel can run, else why not; ``block_diagonal`` and ``monarch`` run it on torch's
current stream. They know neither autograd nor autocast: an operator that does wraps them. Tensors are copied
when they are not contiguous (a Monarch kernel also wants them to start on 16 bytes). float32 is multiplied as
float32 unless ``torch.backends.cuda.matmul.fp32_precision`` asks for "tf32".
Raises: ConfigError for shapes and dtypes that do not fit, KernelError for what the machine lacks or CUDA
reports.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from blocks.errors import ConfigError
from blocks.kernels.cuda_launch import ELEMENTS, checked, library, name_of, on_stream
from blocks.kernels.sources import KernelError

MONARCH_SIZES = (16, 32, 64)
SOURCES = {"linear": "block_diagonal_gemm.cu", "product": "monarch.cu"}
MAX_GRID = 2**31 - 1
ROWS_A_SPLIT = 256  # fewer rows than this are not worth partial sums of their own


def serves(device_type: str, dtype: torch.dtype, **sizes: int | str) -> str | None:
    """None when the kernel can run on this machine, else the reason.

    Sizes: op="linear", rows, k, q, p; or op="product", rows, k, q, p, l, s, r. Builds the library when all
    else fits, so that None can be relied on: the first call may take seconds.
    """
    op = str(sizes["op"])
    if op not in SOURCES:
        raise ConfigError(f"CUDA kernels: op must be one of {', '.join(SOURCES)}, got {op!r}")
    if device_type != "cuda":
        return f"it needs a CUDA device, not {device_type}"
    if dtype not in ELEMENTS:
        return f"it takes {', '.join(map(name_of, ELEMENTS))}, not {name_of(dtype)}"
    if op == "product" and (reason := _not_square([int(sizes[letter]) for letter in "kqplsr"])):
        return reason
    if (
        op == "linear"
        and _tiles(int(sizes["rows"]), int(sizes["k"]), max(int(sizes["q"]), int(sizes["p"]))) > MAX_GRID
    ):
        return f"{sizes['rows']} rows of {sizes['k']} blocks are more tiles than a grid holds"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if (capability := torch.cuda.get_device_capability()) < (8, 0):
        return f"it needs compute capability 8.0, this device has {capability[0]}.{capability[1]}"
    try:
        built = library(SOURCES[op], dtype, torch.device("cuda", torch.cuda.current_device()))
    except KernelError as error:
        return str(error)
    needed = built.monarch_shared_bytes(ctypes.c_int64(int(sizes["k"]))) if op == "product" else 0
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    # torch's stubs lack it; without it the launch reports
    available = getattr(properties, "shared_memory_per_block_optin", needed)
    return (
        f"it needs {needed} bytes of shared memory a block, this device has {available}"
        if needed > available
        else None
    )


class block_diagonal:  # a namespace: its functions share a source file and a legend
    """y[m, kQ + q] = sum_p x[m, kP + p] weight[k, q, p]: weight (K, Q, P), x (M, K·P)."""

    @staticmethod
    def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(M, K·P), (K, Q, P), (K·Q,) or None -> (M, K·Q)."""
        k, q, p = _three("weight", weight)
        m = _rows("x", x)
        x, weight, bias = checked(
            "block-diagonal kernel",
            {"x": (x, (m, k * p)), "weight": (weight, (k, q, p)), "bias": (bias, (k * q,))},
        )
        y = x.new_empty(m, k * q)
        on_stream(SOURCES["linear"], "block_diagonal_linear", x, x, weight, bias, y, m, k, q, p)
        return y

    @staticmethod
    def glu_up(x: Tensor, weight: Tensor) -> Tensor:
        """gelu(gate) · value with (gate, value) the halves of the product, never stored.

        (M, K·P), (K, Q, P) -> (M, K·Q/2), K even.
        """
        k, q, p = _three("weight", weight)
        m = _rows("x", x)
        if k % 2:
            raise ConfigError(f"block-diagonal kernel: gate and value need an even number of blocks, got {k}")
        x, weight = checked("block-diagonal kernel", {"x": (x, (m, k * p)), "weight": (weight, (k, q, p))})
        y = x.new_empty(m, k // 2 * q)
        on_stream(SOURCES["linear"], "block_diagonal_gated", x, x, weight, y, m, k, q, p)
        return y

    @staticmethod
    def linear_backward(
        gradient: Tensor, x: Tensor, weight: Tensor, need: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of (x, weight, bias), None where ``need`` is False. The bias gradient comes with the
        weight's from one reading.
        """
        k, q, p = _three("weight", weight)
        m = _rows("x", x)
        shapes = {"gradient": (gradient, (m, k * q)), "x": (x, (m, k * p)), "weight": (weight, (k, q, p))}
        gradient, x, weight = checked("block-diagonal kernel", shapes)
        dx = torch.empty_like(x) if need[0] else None
        if dx is not None:
            on_stream(SOURCES["linear"], "block_diagonal_dx", x, gradient, weight, dx, m, k, q, p)
        if not need[1]:
            return dx, None, gradient.sum(dim=0) if need[2] else None
        dweight, dbias = torch.empty_like(weight), gradient.new_empty(k * q) if need[2] else None
        splits = _splits(x, m, tiles=k * -(-q // 128) * -(-p // 64), a_processor=2)
        workspace = torch.empty(splits * (k * q * p + k * q), dtype=torch.float32, device=x.device)
        on_stream(
            SOURCES["linear"],
            "block_diagonal_dweight",
            x,
            gradient,
            x,
            dweight,
            dbias,
            workspace,
            m,
            k,
            q,
            p,
            splits,
        )
        return dx, dweight, dbias


class monarch:  # a namespace
    """y[m, s·b + l] = sum_r second[l, s, r] sum_p first[r, l, p] x[m, r·b + p].

    Factors (b, b, b), x (M, b²), b = 16, 32 or 64.
    """

    @staticmethod
    def product_forward(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """(M, n) -> (M, n)."""
        m, b = _rows("x", x), _size(first, second)
        x, first, second = checked(
            "Monarch kernel",
            {"x": (x, (m, b * b)), "first": (first, (b,) * 3), "second": (second, (b,) * 3)},
            align=True,
        )
        y = torch.empty_like(x)
        on_stream(SOURCES["product"], "monarch_product", x, x, first, second, y, None, m, b)
        return y

    @staticmethod
    def product_backward(
        gradient: Tensor, x: Tensor, first: Tensor, second: Tensor, need: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of (x, first, second), None where ``need`` is False. The hidden values are computed
        again, not kept.
        """
        m, b = _rows("x", x), _size(first, second)
        shapes = {
            "gradient": (gradient, (m, b * b)),
            "x": (x, (m, b * b)),
            "first": (first, (b,) * 3),
            "second": (second, (b,) * 3),
        }
        gradient, x, first, second = checked("Monarch kernel", shapes, align=True)
        if not any(need):
            return None, None, None
        dx, hidden_gradient, by_column = (torch.empty_like(x) if needed else None for needed in need)
        first_t = first.mT.contiguous() if need[0] else None
        second_t = second.mT.contiguous() if need[0] or need[1] else None
        source = SOURCES["product"]
        on_stream(
            source, "monarch_transposed", x, gradient, first_t, second_t, dx, hidden_gradient, by_column, m, b
        )
        dfirst, dsecond = (torch.empty_like(first) if needed else None for needed in need[1:])
        # small blocks are tiles of one warp (b = 64: four), of which a processor holds many
        splits = _splits(x, m, tiles=b, a_processor=4 if b == 64 else 16)
        workspace = torch.empty(
            splits * (b**3 + b**2) if need[1] or need[2] else 0, dtype=torch.float32, device=x.device
        )
        if dfirst is not None:
            on_stream(source, "monarch_factor", x, hidden_gradient, x, dfirst, workspace, m, b, splits)
        if dsecond is not None:
            hidden = torch.empty_like(x)
            on_stream(source, "monarch_product", x, x, first, None, None, hidden, m, b)
            on_stream(source, "monarch_factor", x, by_column, hidden, dsecond, workspace, m, b, splits)
        return dx, dfirst, dsecond


def _three(name: str, tensor: Tensor) -> tuple[int, int, int]:
    if tensor.dim() != 3 or min(tensor.shape) < 1:
        raise ConfigError(
            f"{name} must have shape (blocks, outputs, inputs), each at least 1, got {tuple(tensor.shape)}"
        )
    k, q, p = tensor.shape
    return k, q, p


def _rows(name: str, tensor: Tensor) -> int:
    if tensor.dim() != 2:
        raise ConfigError(f"{name} must have shape (rows, width), got {tuple(tensor.shape)}")
    return tensor.shape[0]


def _size(first: Tensor, second: Tensor) -> int:
    sizes = [*_three("first", first), *_three("second", second)]
    if reason := _not_square(sizes):
        raise ConfigError(f"Monarch kernel: {reason}")
    return sizes[0]


def _not_square(sizes: list[int]) -> str | None:
    if len(set(sizes)) == 1 and sizes[0] in MONARCH_SIZES:
        return None
    return f"it takes factors (b, b, b) with b = 16, 32 or 64, not {tuple(sizes[:3])} and {tuple(sizes[3:])}"


def _tiles(rows: int, blocks: int, width: int) -> int:
    return -(-rows // 128) * blocks * -(-width // 64)


def _splits(x: Tensor, rows: int, *, tiles: int, a_processor: int) -> int:
    """Ranges of rows with separate sums, enough to occupy every processor."""
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    return max(1, min(-(-a_processor * processors // tiles), -(-rows // ROWS_A_SPLIT)))
