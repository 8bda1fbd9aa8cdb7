"""Operations that have kernels: which code runs, chosen by device, dtype and sizes.

| implementation | is                                 | runs on                                         |
|----------------|------------------------------------|-------------------------------------------------|
| reference      | plain torch, gradients by autograd | everything                                      |
| cpu            | tuned torch with gradients by hand | CPU tensors                                     |
| triton         | cuda/*_triton.py                   | CUDA tensors; CPU ones under TRITON_INTERPRET=1 |
| cuda           | cuda/*.cu, built on first use      | CUDA tensors                                    |

A requested implementation that cannot run is an error (see ``blocks.dispatch.requests``). A kernel that the
rule selected and that cannot be loaded or built is replaced by plain torch, with one warning. Values never
enter a decision, so a compiler can trace it; a compiled graph keeps the request that held when it was traced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from blocks.dispatch.choice import Choice, compile_time_constant, log
from blocks.dispatch.requests import KERNELS, check_known, override
from blocks.errors import ConfigError, did_you_mean
from blocks.kernels.check import kernel_mismatch
from blocks.kernels.sources import KernelError, triton_kernels

# operation: the module that defines it
OPERATIONS = {
    "block_diagonal_matmul": "blocks.ops.block_diagonal",
    "block_diagonal_glu": "blocks.ops.glu",
    "monarch_matmul": "blocks.ops.monarch",
    "causal_conv": "blocks.convolution.gated_causal",
}
Sizes = Mapping[str, int]

NOTHING_TO_COMPUTE = Choice(implementation="cpu", reason="nothing to compute")
SHAPES_ONLY = Choice(implementation="cpu", reason="only shapes are wanted: counted as one operator")


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Kernels of an operation.

    ``load`` gives an object with ``serves``, which calls the operation ``op``, and two functions.
    """

    load: Callable[[], Any]
    op: str
    forward: str
    backward: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What runs an operation, None where nothing can, why, and why each other implementation does not."""

    runs: str | None
    reason: str
    others: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation and its implementations.

    ``example``: sizes of ordinary use; ``cpu_reason``: the form that cpu takes.
    """

    name: str
    example: dict[str, int]
    cpu_reason: Callable[[Sizes], str]
    kernels: dict[str, Kernels]
    on_gpu: tuple[str, ...] = ("triton", "cuda")  # by preference; nothing has been measured yet

    def __post_init__(self) -> None:
        _operations[self.name] = self

    def choose(
        self, device: str, dtype: torch.dtype, sizes: Sizes, implementation: str | None = None
    ) -> Choice:
        """The implementation for tensors of this kind. ``implementation``: the one the caller requests.

        Raises: ConfigError when an unknown implementation is requested, or one that cannot run.
        """
        requested, source = (
            override(self.name)
            if implementation is None
            else (check_known(implementation, KERNELS), "the caller")
        )
        if device == "meta":
            return SHAPES_ONLY
        if 0 in sizes.values():
            return NOTHING_TO_COMPUTE
        if requested is not None:
            if reason := self.why_not(requested, device, dtype, sizes):
                raise ConfigError(f"{self.name}: {requested!r}, named by {source}, cannot run: {reason}")
            return Choice(implementation=requested, reason=f"named by {source}", requested=True)
        return self._by_rule(device, dtype, sizes)

    def _by_rule(self, device: str, dtype: torch.dtype, sizes: Sizes) -> Choice:
        refusals = []
        for name in ("cpu",) if device == "cpu" else self.on_gpu:
            refusal = self.why_not(name, device, dtype, sizes)
            if not refusal and device != "cpu":
                refusal = _mismatch(self.name, name, device, dtype)
            if not refusal:
                return _choice(
                    name, self.cpu_reason(sizes) if name == "cpu" else "a kernel serves these sizes"
                )
            refusals.append(f"{name}: {refusal}")
        return Choice(implementation="reference", reason="; ".join(refusals))

    def why_not(self, implementation: str, device: str, dtype: torch.dtype, sizes: Sizes) -> str | None:
        """Why this implementation cannot run on such tensors, one clause; None when it can."""
        if implementation == "reference":
            return None
        if not dtype.is_floating_point:
            return f"{dtype} is for the reference"
        if implementation == "cpu":
            return None if device == "cpu" else "it is for CPU tensors"
        kernels = self.kernels.get(implementation)
        if kernels is None:
            return "no such kernel has been written"
        if device != "cuda" and (implementation == "cuda" or os.environ.get("TRITON_INTERPRET") != "1"):
            return "its tensors are on no CUDA device" if torch.cuda.is_available() else "no CUDA device"
        if reason := _missing(self.name, implementation):
            return reason
        answer: str | None = _loaded[self.name, implementation].serves(device, dtype, op=kernels.op, **sizes)
        return answer


@lru_cache(maxsize=64)
def _choice(implementation: str, reason: str) -> Choice:
    return Choice(implementation=implementation, reason=reason)


# --- kernels ------------------------------------------------------------------------------------------------

_operations: dict[str, Operation] = {}
# an object with the kernel functions, or the reason why it is missing
_loaded: dict[tuple[str, str], Any] = {}
# why a kernel's numbers are wrong here; "": they are right
_mismatches: dict[tuple[str, str, str, torch.dtype], str] = {}


@compile_time_constant
def _missing(operation: str, implementation: str) -> str:
    """Why the kernels of an operation cannot be loaded; "" when they are. Tried once."""
    key = (operation, implementation)
    if key not in _loaded:
        try:
            _loaded[key] = _operations[operation].kernels[implementation].load()
        except (KernelError, ImportError, OSError, AttributeError) as error:
            _loaded[key] = _first_line(error)
    return _loaded[key] if isinstance(_loaded[key], str) else ""


@compile_time_constant
def _mismatch(operation: str, implementation: str, device: str, dtype: torch.dtype) -> str:
    """Why a kernel's numbers are wrong on this device; "" when they are right. Tried once
    (blocks.kernels.check).
    """
    key = (operation, implementation, device, dtype)
    if key not in _mismatches:
        kernels, loaded = _operations[operation].kernels[implementation], _loaded[operation, implementation]
        _mismatches[key] = kernel_mismatch(
            operation,
            reference=import_module(OPERATIONS[operation]).reference,
            forward=getattr(loaded, kernels.forward),
            backward=getattr(loaded, kernels.backward),
            serves=lambda sizes: loaded.serves(device, dtype, op=kernels.op, **sizes),
            device=device,
            dtype=dtype,
        )
        if _mismatches[key]:
            log.warning("%s: the %s kernel is not taken: %s", operation, implementation, _mismatches[key])
    return _mismatches[key]


def run_kernel(
    operation: Operation,
    direction: Literal["forward", "backward"],
    choice: str,
    plain: Callable[..., Any],
    *inputs: Any,
) -> Any:
    """The body of an operator.

    The chosen kernel on ``inputs``, or ``plain`` where that is chosen or the kernel is missing.

    ``choice``: an implementation, followed by "!" when it was requested (``Choice.token``).
    Raises: ConfigError when a requested kernel cannot be loaded or built.
    """
    implementation, requested = choice.removesuffix("!"), choice.endswith("!")
    if implementation == "cpu":
        return plain(*inputs)
    kernels = operation.kernels[implementation]
    reason = _missing(operation.name, implementation)
    if not reason:
        function = getattr(
            _loaded[operation.name, implementation],
            kernels.forward if direction == "forward" else kernels.backward,
        )
        try:
            return function(*(ready(x) if isinstance(x, Tensor) else x for x in inputs))
        except Exception as error:
            if not _is_build_failure(error):
                raise
            reason = _first_line(error)
    if requested:
        raise ConfigError(f"{operation.name}: {implementation!r} was named and cannot run: {reason}")
    if _loaded[operation.name, implementation] != reason:
        _loaded[operation.name, implementation] = reason  # the next choice knows
        log.warning("%s: the %s kernel gives way to plain torch: %s", operation.name, implementation, reason)
    return plain(*inputs)


def triton(name: str, op: str, forward: str, backward: str) -> Kernels:
    """The functions of cuda/<name>_triton.py."""
    return Kernels(load=lambda: triton_kernels(name), op=op, forward=forward, backward=backward)


def cuda(name: str, op: str, forward: str, backward: str) -> Kernels:
    """The functions of one namespace of ``blocks.kernels.cuda_library``.

    Its absence is a reason, not an error.
    """

    def load() -> Any:
        library = import_module("blocks.kernels.cuda_library")
        space = getattr(library, name)
        serves = getattr(space, "serves", None) or library.serves
        return SimpleNamespace(
            serves=serves, **{function: getattr(space, function) for function in (forward, backward)}
        )

    return Kernels(load=load, op=op, forward=forward, backward=backward)


def ready(x: Tensor) -> Tensor:
    """x as a kernel takes it.

    Contiguous, and on a 16-byte boundary, which a slice of a larger tensor may miss.
    """
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _is_build_failure(error: Exception) -> bool:
    return (
        isinstance(error, (KernelError, ImportError, OSError))
        or type(error).__module__.partition(".")[0] == "triton"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# --- report -------------------------------------------------------------------------------------------------


def report(
    device: str | None = None, dtypes: Sequence[torch.dtype] | None = None
) -> dict[str, dict[str, Decision]]:
    """Per operation and dtype: what would run on ``device`` at ordinary sizes, why, and why each other one
    would not.

    By default on the GPU, if there is one, in float32 and bfloat16; else on the CPU in float32. Nothing is
    built or run.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtypes = dtypes or ((torch.float32, torch.bfloat16) if device == "cuda" else (torch.float32,))
    return {
        name: {_short(dtype): _decision(operation(name), device, dtype) for dtype in dtypes}
        for name in OPERATIONS
    }


def operation(name: str) -> Operation:
    """The operation called ``name``. Raises: ConfigError with the nearest name."""
    if name not in OPERATIONS:
        raise ConfigError(f"unknown operation {name!r}{did_you_mean(name, OPERATIONS)}")
    import_module(OPERATIONS[name])
    return _operations[name]


def _decision(operation: Operation, device: str, dtype: torch.dtype) -> Decision:
    try:
        choice = operation.choose(device, dtype, operation.example)
    except ConfigError as error:
        return Decision(runs=None, reason=str(error), others={})
    others = [name for name in KERNELS if name != choice.implementation]
    refusals = {name: operation.why_not(name, device, dtype, operation.example) for name in others}
    reasons = {name: reason or f"{choice.implementation} comes first" for name, reason in refusals.items()}
    return Decision(runs=choice.implementation, reason=choice.reason, others=reasons)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
