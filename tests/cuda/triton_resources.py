"""Every Triton kernel of ``cuda/`` at the sizes that matter, as it is launched, and what the compilers make of it.

``python -m tests.cuda.triton_resources`` prints the table of cuda/README.md; ``--all`` adds float32 and the larger sizes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch

from blocks.kernels.sources import triton_kernels
from tests.cuda.triton_compile import Resources, compile_resources

ROWS = 16384
SHORT = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Launch:
    """One kernel with the constants and options that the host code would choose for these sizes."""

    name: str
    sizes: str
    dtype: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int
    large: bool = field(default=False)  # beyond d = 768 in 4 blocks, or b = 32

    def compiled(self, capability: int) -> Resources:
        return compile_resources(
            self.kernel, self.signature, self.constants, capability, self.num_warps, self.num_stages
        )


def launches() -> list[Launch]:
    return [launch for dtype in SHORT for launch in (*_linear(dtype), *_glu(dtype), *_product(dtype))]


def _launch(
    name: str,
    sizes: str,
    dtype: str,
    kernel: Any,
    pointers: str,
    partial: str,
    constants: dict[str, Any],
    tiles: Any,
    **more: Any,
) -> Launch:
    """pointers: names of tensors of ``dtype``; partial: names of fp32 ones, of a kernel that splits the rows."""
    signature = (
        dict.fromkeys(pointers.split(), f"*{dtype}") | dict.fromkeys(partial.split(), "*fp32") | {"M": "i32"}
    )
    if partial:
        signature["steps"] = "i32"
    return Launch(
        name,
        sizes,
        dtype,
        kernel,
        signature,
        constants | tiles.constants,
        tiles.num_warps,
        tiles.num_stages,
        **more,
    )


def _linear(dtype: str) -> list[Launch]:
    kernels = triton_kernels("block_diagonal")
    size = SHORT[dtype].itemsize
    how = {"PRECISION": kernels.precision(SHORT[dtype])}
    found = []
    for k, p, q in ((4, 192, 192), (4, 192, 768), (4, 512, 512)):
        sizes, large = f"{k * p} -> {k * q}, {k} blocks", (p, q) != (192, 192)
        forward = {"K": k, "I": p, "O": q, "WI": 1, "WO": p, "BIAS": True, **how}
        back = {"K": k, "I": q, "O": p, "WI": p, "WO": 1, "BIAS": False, **how}
        weight = {"K": k, "Q": q, "P": p, "BIAS": True, **how}
        one = kernels.linear_kernel, "x weight bias y", ""
        other = kernels.linear_weight_kernel, "gradient x", "dweight dbias"
        found += [
            _launch(
                "linear", sizes, dtype, *one, forward, kernels.linear_tiles(ROWS, p, q, size), large=large
            ),
            _launch(
                "linear, dx", sizes, dtype, *one, back, kernels.linear_tiles(ROWS, q, p, size), large=large
            ),
            _launch(
                "linear, dweight and dbias",
                sizes,
                dtype,
                *other,
                weight,
                kernels.linear_weight_tiles(ROWS, q, p, size),
                large=large,
            ),
        ]
    return found


def _glu(dtype: str) -> list[Launch]:
    kernels = triton_kernels("block_diagonal")
    size = SHORT[dtype].itemsize
    found = []
    for p in (128, 192, 256):
        if p > kernels.WIDEST_GLU_BLOCK[size]:
            continue
        sizes, shape = f"width {4 * p}, ffn_width {16 * p}, 4 blocks", {"K": 4, "P": p, "H": 4 * p}
        for name, kind, kernel, pointers, partial in (
            ("gated unit", "forward", kernels.glu_kernel, "x up down bias y", ""),
            ("gated unit, dx", "input", kernels.glu_input_kernel, "gradient x up down dx", ""),
            (
                "gated unit, dup and ddown",
                "weight",
                kernels.glu_weight_kernel,
                "gradient x up down",
                "dup ddown",
            ),
        ):
            how = kernels.precision(SHORT[dtype], "ieee" if kind == "weight" else "tf32x3")
            constants = {**shape, "PRECISION": how, **({"BIAS": True} if kind == "forward" else {})}
            tiles = kernels.glu_tiles(kind, ROWS, p, 4 * p, size)
            found.append(
                _launch(name, sizes, dtype, kernel, pointers, partial, constants, tiles, large=p != 192)
            )
    return found


def _product(dtype: str) -> list[Launch]:
    kernels = triton_kernels("monarch")
    size = SHORT[dtype].itemsize
    how = {"PRECISION": kernels.precision(SHORT[dtype])}
    found = []
    for b in kernels.DIGITS[size]:
        tiles = kernels.product_tiles(ROWS, size)
        one = kernels.product_kernel, "x first second y", ""
        other = kernels.product_weight_kernel, "gradient x first second", "dfirst dsecond"
        passes = (
            {"both factors": (True, True)}
            if kernels.one_pass(b, b, size)
            else {"first": (True, False), "second": (False, True)}
        )
        sizes, large = f"b = {b}", b != 32
        found += [
            _launch(
                "Monarch product",
                sizes,
                dtype,
                *one,
                kernels.product_strides(b, b, b, b) | how,
                tiles,
                large=large,
            ),
            _launch(
                "Monarch product, dx",
                sizes,
                dtype,
                *one,
                kernels.transposed_strides(b, b, b, b) | how,
                tiles,
                large=large,
            ),
        ]
        for name, (first, second) in passes.items():
            weight = {"K": b, "P": b, "L": b, "S": b, "FIRST": first, "SECOND": second, **how}
            tiles = kernels.product_weight_tiles(b, b, size)
            found.append(
                _launch(f"Monarch product, d {name}", sizes, dtype, *other, weight, tiles, large=large)
            )
    return found


def main(arguments: list[str]) -> None:
    import triton

    print(
        f"Triton {triton.__version__}.\n\n| kernel | sizes | dtype | target | registers | stack | shared memory | tensor cores |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for launch in launches():
        if "--all" not in arguments and (launch.large or launch.dtype != "bf16"):
            continue
        for capability in (80, 90):
            found = launch.compiled(capability)
            cells = (
                launch.name,
                launch.sizes,
                launch.dtype,
                f"sm_{capability}",
                found.registers,
                found.stack_bytes,
                found.shared_bytes,
            )
            print("| " + " | ".join(map(str, cells)) + f" | {'yes' if found.mma else 'no'} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
