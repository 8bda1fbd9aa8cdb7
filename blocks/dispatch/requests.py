"""The implementation a caller or the environment requests, in place of the rule of an operation.

    ARCH_LAB_OPS=reference                                    plain torch in every operation
    ARCH_LAB_OPS=causal_conv=triton,attention=tiled           these two operations
    with use_implementation("long_convolution=fft"): ...      inside the block; replaces the environment

A name without an operation holds for every operation that has it and is not named itself. The argument of an
operation (``implementation=``, ``backend=``, ``algorithm=``) overrules both. A requested implementation that
cannot run is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from blocks.dispatch.choice import compile_time_constant
from blocks.errors import ConfigError, did_you_mean

VARIABLE = "ARCH_LAB_OPS"
KERNELS = ("reference", "cpu", "triton", "cuda")
# operation: its implementations; "reference" is plain torch, differentiated by torch
IMPLEMENTATIONS: dict[str, tuple[str, ...]] = {
    "block_diagonal_matmul": KERNELS,
    "block_diagonal_glu": KERNELS,
    "monarch_matmul": KERNELS,
    "causal_conv": KERNELS,
    "rms_norm": ("reference", "cpu"),
    "rotation": ("reference", "cpu"),
    "geglu": ("reference", "cpu"),
    "short_convolution": ("reference", "operator"),
    "long_convolution": ("reference", "direct", "fft", "monarch", "toeplitz"),
    "attention": ("reference", "fused", "masked", "folded", "tiled", "flex"),
}

_context: ContextVar[Mapping[str, str] | None] = ContextVar(
    "blocks.dispatch.use_implementation", default=None
)


@contextmanager
def use_implementation(names: str) -> Iterator[None]:
    """Run the implementations that ``names`` requests; the format is that of ARCH_LAB_OPS, "" is no request.

    Raises: ConfigError for an unknown name.
    """
    token = _context.set(parse(names))
    try:
        yield
    finally:
        _context.reset(token)


@compile_time_constant
def override(operation: str) -> tuple[str | None, str]:
    """The implementation that ``use_implementation`` or the environment requests, or None; and which of the
    two.
    """
    requests = _context.get()
    if requests is not None:
        return requests.get(operation), "use_implementation()"
    return parse(os.environ.get(VARIABLE, "")).get(operation), VARIABLE


@lru_cache(maxsize=32)
def parse(names: str) -> Mapping[str, str]:
    """Operation to implementation. Raises: ConfigError for an unknown name."""
    everywhere: dict[str, str] = {}
    single: dict[str, str] = {}
    for request in filter(None, (text.strip() for text in names.split(","))):
        operation, _, implementation = (text.strip() for text in request.rpartition("="))
        if "=" in request:
            if operation not in IMPLEMENTATIONS:
                raise ConfigError(
                    f"{VARIABLE}: unknown operation {operation!r}{did_you_mean(operation, IMPLEMENTATIONS)}"
                )
            single[operation] = check_known(implementation, IMPLEMENTATIONS[operation])
        else:
            check_known(implementation, sorted(set().union(*IMPLEMENTATIONS.values())))
            everywhere |= {
                name: implementation
                for name, available in IMPLEMENTATIONS.items()
                if implementation in available
            }
    return everywhere | single


def check_known(implementation: str, names: tuple[str, ...] | list[str]) -> str:
    """The name itself. Raises: ConfigError with the nearest one when it is not among ``names``."""
    if implementation not in names:
        raise ConfigError(f"unknown implementation {implementation!r}{did_you_mean(implementation, names)}")
    return implementation
