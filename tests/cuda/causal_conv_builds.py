"""The compiled variants of the gated causal convolution that a GPU would run, with the arguments of their launches.

``python -m tests.cuda.causal_conv_builds`` prints the table of cuda/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from blocks.kernels.sources import triton_kernels
from tests.cuda.triton_compile import Resources, compile_resources

SHAPES = (
    (2048, 32),
    (1024, 32),
    (512, 32),
    (2048, 1),
    (2047, 32),
    (2047, 1),
    (64, 128),
    (50, 32),
)  # tokens, sequences
FLOAT32_SCRATCH = ("partial", "twiddle", "table", "spectrum")


@dataclass(frozen=True)
class Build:
    """One kernel for one type and target. ``products``: tensor cores are expected; ``ones``: sizes compiled in as 1; ``odd``: lengths are
    no multiples of 16, so that rows start anywhere."""

    kernel: str
    dtype: str
    capability: int
    constexprs: tuple[tuple[str, Any], ...]
    warps: int = 4
    stages: int = 3
    products: bool = False
    module: str = "causal_conv"
    precision: str = ""
    ones: tuple[str, ...] = ()
    odd: bool = False

    def __str__(self) -> str:
        tail = [f"{name}=1" for name in self.ones] + ["odd"] * self.odd
        return "-".join(
            [*self.name().split(), self.tile(), self.dtype + self.precision, f"sm_{self.capability}", *tail]
        )

    def name(self) -> str:
        return " ".join([self.kernel, *(name.lower() for name, value in self.constexprs if value is True)])

    def tile(self) -> str:
        return "x".join(
            str(value)
            for name, value in self.constexprs
            if name in ("M", "N", "K", "C", "TILE", "STEP", "POINTS")
        )

    def resources(self) -> Resources:
        kernel = getattr(triton_kernels(self.module), self.kernel)
        constexprs = dict(self.constexprs) | dict.fromkeys(self.ones, 1)
        integers = [n for n in kernel.arg_names if n in INTEGERS and n not in constexprs]
        pointers = {n: "*fp32" if n in FLOAT32_SCRATCH else f"*{self.dtype}" for n in kernel.arg_names}
        even = [] if self.odd else [n for n in integers if n not in ("batch", "pairs", "lags")]
        return compile_resources(
            kernel, pointers | dict.fromkeys(integers, "i32"), constexprs, self.capability, self.warps, self.stages,
            divisible=even,
        )  # fmt: skip

    def row(self, made: Resources) -> str:
        cells = [
            self.name() + ", odd" * self.odd,
            f"{self.dtype} {self.precision}".strip(),
            f"sm_{self.capability}",
            self.tile(),
            self.warps,
        ]
        cells += [
            made.registers,
            made.stack_bytes + made.local,
            f"{made.shared_bytes / 1024:g}",
            "yes" if made.mma else "no",
        ]
        return f"| {' | '.join(str(cell) for cell in cells)} |"


INTEGERS = [
    "channels",
    "batch",
    "tokens",
    "taps",
    "origin",
    "length",
    "points",
    "lags",
    "pairs",
    "n1",
    "n2",
    "kernel_stride",
]


def builds() -> list[Build]:
    conv, monarch = triton_kernels("causal_conv"), triton_kernels("monarch_conv")
    found: dict[Build, None] = {}  # lengths that share their tiles are one build

    def add(
        kernel: str,
        dtype: str,
        capability: int,
        *,
        like: Any = None,
        precision: str = "",
        odd: bool,
        **constexprs: Any,
    ) -> None:
        shape = {"stages": like.stages, "products": dtype != "fp32" or precision == "tf32"} if like else {}
        warps = (
            {} if like is None else {"warps": like.C // 16 if kernel == "correlation_kernel" else like.warps}
        )
        build = Build(
            kernel,
            dtype,
            capability,
            tuple(constexprs.items()),
            precision=precision,
            odd=odd,
            **shape,
            **warps,
        )
        found[build] = None

    for capability in (90, 80):
        for dtype, precision in (("bf16", ""), ("fp32", ""), ("fp32", "tf32")):
            kind = torch.bfloat16 if dtype == "bf16" else torch.float32
            for tokens, batch in SHAPES:
                like, odd, ieee = (
                    conv.tiles(kind, batch=batch, tokens=tokens),
                    tokens % 16 != 0,
                    precision or "ieee",
                )
                tile: dict[str, Any] = {
                    "M": like.M,
                    "N": like.N,
                    "K": like.K,
                    "PRECISION": ieee,
                    "COPIES": 16 // kind.itemsize,
                }
                target: dict[str, Any] = {
                    "dtype": dtype,
                    "capability": capability,
                    "like": like,
                    "precision": precision,
                    "odd": odd,
                }
                add("toeplitz_kernel", TAPS=3, GATE=True, TRANSPOSED=False, **tile, **target)
                add("toeplitz_kernel", TAPS=3, GATE=False, TRANSPOSED=True, **tile, **target)
                add("correlation_kernel", C=like.C, K=like.K, SPLITS=1, PRECISION=ieee, **target)
            if precision:
                continue
            for odd in (False, True):
                both: dict[str, Any] = {
                    "dtype": dtype,
                    "capability": capability,
                    "POINTS": conv.POINTS,
                    "odd": odd,
                }
                add("gates_kernel", TAPS=3, U=True, H=True, **both)
                add("ungate_kernel", TAPS=3, DZ=True, SUMS=True, **both)
                add("copies_kernel", FLIP=True, COPIES=16 // kind.itemsize, **both)
    tile = {"TILE": monarch.TILE, "STEP": monarch.STEP}
    for capability in (90, 80):
        for kernel, constexprs in [
            ("columns_kernel", tile), ("rows_kernel", dict(INVERSE=False, **tile)), ("rows_kernel", dict(INVERSE=True, **tile)),
            ("inverse_columns_kernel", tile), ("product_kernel", {"CONJUGATE": True, "POINTS": monarch.POINTS}),
            ("cross_kernel", {"POINTS": monarch.POINTS}),
        ]:  # fmt: skip
            for odd in (False, True):
                found[
                    Build(
                        kernel,
                        "fp32",
                        capability,
                        tuple(constexprs.items()),
                        monarch.WARPS,
                        module="monarch_conv",
                        odd=odd,
                    )
                ] = None
    # a launch compiles sizes of 1 into the kernel, as constants: they must do in every expression
    one: dict[str, tuple[str, ...]] = {
        "toeplitz_kernel": ("channels", "batch", "tokens", "taps"),
        "correlation_kernel": ("batch", "tokens", "lags"),
        "gates_kernel": ("channels", "tokens", "points"),
        "ungate_kernel": ("channels", "tokens", "points"),
        "copies_kernel": ("taps", "kernel_stride"),
        "columns_kernel": ("batch", "pairs", "tokens", "n1"),
        "rows_kernel": ("n1",),
        "inverse_columns_kernel": ("batch", "pairs", "tokens", "n1"),
        "product_kernel": ("pairs",),
        "cross_kernel": ("pairs",),
    }
    for build in [b for b in found if b.capability == 90 and b.odd and b.dtype + b.precision == "fp32"]:
        found[replace(build, ones=one[build.kernel])] = None
    return list(found)


BUILDS = builds()

if __name__ == "__main__":
    print("| kernel | type | target | tile | warps | registers | spilled | shared, KiB | tensor cores |")
    print("|---" * 9 + "|")
    for build in BUILDS:
        if not build.ones:
            print(build.row(build.resources()), flush=True)
