"""Which code runs an operation, and why: one visible decision from device, dtype and sizes.

| implementation | is                                                                | runs on                                         |
|----------------|-------------------------------------------------------------------|-------------------------------------------------|
| reference      | plain torch, readable, differentiated by torch                    | everything                                      |
| cpu            | tuned torch with gradients by hand                                | CPU tensors                                     |
| triton         | cuda/*_triton.py                                                  | CUDA tensors; CPU ones under TRITON_INTERPRET=1 |
| cuda           | cuda/*.cu, built on first use                                     | CUDA tensors                                    |

Overruled by the argument ``implementation=`` of an operation, then by ``forced``, then by the environment: ARCH_LAB_OPS=reference, or
ARCH_LAB_OPS=causal_conv=triton,monarch_matmul=reference. What is named and cannot run is an error; a kernel that was chosen here and
cannot be loaded or built gives way to plain torch and says so once. Values never enter a decision, so a compiler can trace it; a compiled
graph keeps to what was named when it was traced. The logger ``blocks.ops`` says each distinct decision once, at level INFO.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from blocks.errors import ConfigError, did_you_mean
from blocks.kernels.check import disproof
from blocks.kernels.sources import KernelError, triton_kernels

Name = Literal["reference", "cpu", "triton", "cuda"]
NAMES: tuple[Name, ...] = get_args(Name)
PROCESSOR: tuple[Name, ...] = ("cpu",)
# operation: its module
OPERATIONS = {
    "block_diagonal_matmul": "blocks.ops.block_diagonal",
    "block_diagonal_glu": "blocks.ops.glu",
    "monarch_matmul": "blocks.ops.monarch",
    "causal_conv": "blocks.convolution.gated_causal",
}
VARIABLE = "ARCH_LAB_OPS"
Sizes = Mapping[str, int]

log = logging.getLogger("blocks.ops")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An implementation and the reason for it, one clause. ``named``: somebody asked for it, so nothing else may run."""

    implementation: Name
    reason: str
    named: bool = False

    @property
    def token(self) -> str:
        """The choice as an operator's argument: a compiled graph and the backward pass keep to it."""
        return self.implementation + ("!" if self.named else "")


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Where an operation's kernels are: ``load`` gives an object with ``serves``, which calls the operation ``op``, and two functions."""

    load: Callable[[], Any]
    op: str
    forward: str
    backward: str


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation and its implementations; ``example``: sizes of ordinary use; ``cpu_reason``: in what form cpu runs given sizes."""

    name: str
    example: dict[str, int]
    cpu_reason: Callable[[Sizes], str]
    kernels: dict[str, Kernels]
    on_gpu: tuple[Name, ...] = ("triton", "cuda")  # by preference; nothing has been measured yet

    def __post_init__(self) -> None:
        _operations[self.name] = self

    def choose(self, device: str, dtype: torch.dtype, sizes: Sizes, implementation: str | None = None) -> Choice:
        """What runs on tensors of this kind. ``implementation`` is the caller's wish.

        Raises: ConfigError when it, or the environment, names what is unknown or cannot run.
        """
        wish, source = (_known(implementation), "the caller") if implementation is not None else _wish(self.name)
        if device == "meta":
            return Choice(implementation="cpu", reason="only shapes are wanted: counted as one operator")
        if 0 in sizes.values():
            return Choice(implementation="cpu", reason="nothing to compute")
        if wish is not None:
            if why := self.why_not(wish, device, dtype, sizes):
                raise ConfigError(f"{self.name}: {wish!r}, named by {source}, cannot run: {why}")
            return Choice(implementation=wish, reason=f"named by {source}", named=True)
        refused = []
        for name in PROCESSOR if device == "cpu" else self.on_gpu:
            why = self.why_not(name, device, dtype, sizes) or (_disproof(self.name, name, device, dtype) if device != "cpu" else None)
            if not why:
                return Choice(implementation=name, reason=self.cpu_reason(sizes) if name == "cpu" else "a kernel serves these sizes")
            refused.append(f"{name}: {why}")
        return Choice(implementation="reference", reason="; ".join(refused))

    def why_not(self, implementation: Name, device: str, dtype: torch.dtype, sizes: Sizes) -> str | None:
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
        if why := _missing(self.name, implementation):
            return why
        answer: str | None = _loaded[self.name, implementation].serves(device, dtype, op=kernels.op, **sizes)
        return answer


# --- kernels --------------------------------------------------------------------------------------------------------

_operations: dict[str, Operation] = {}
_loaded: dict[tuple[str, str], Any] = {}  # an object with the kernel functions, or the reason why there is none
_proofs: dict[tuple[str, str, str, torch.dtype], str] = {}  # why a kernel's numbers are wrong here; "": they are right


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _missing(operation: str, implementation: str) -> str:
    """Why an operation's kernels cannot be loaded; "" when they are. Tried once."""
    key = (operation, implementation)
    if key not in _loaded:
        try:
            _loaded[key] = _operations[operation].kernels[implementation].load()
        except (KernelError, ImportError, OSError, AttributeError) as error:
            _loaded[key] = _first_line(error)
    return _loaded[key] if isinstance(_loaded[key], str) else ""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _disproof(operation: str, implementation: str, device: str, dtype: torch.dtype) -> str:
    """Why a kernel's numbers are wrong on this device; "" when they are right. Tried once (blocks.kernels.check)."""
    key = (operation, implementation, device, dtype)
    if key not in _proofs:
        kernels, loaded = _operations[operation].kernels[implementation], _loaded[operation, implementation]
        _proofs[key] = disproof(
            operation,
            reference=import_module(OPERATIONS[operation]).reference,
            forward=getattr(loaded, kernels.forward),
            backward=getattr(loaded, kernels.backward),
            serves=lambda sizes: loaded.serves(device, dtype, op=kernels.op, **sizes),
            device=device,
            dtype=dtype,
        )
        if _proofs[key]:
            log.warning("%s: the %s kernel is not taken: %s", operation, implementation, _proofs[key])
    return _proofs[key]


def run_kernel(operation: Operation, way: Literal["forward", "backward"], choice: str, plain: Callable[..., Any], *given: Any) -> Any:
    """The body of an operator: the chosen kernel on tensors ``given``, or ``plain`` where that is chosen or the kernel is not to be had.

    ``choice``: an implementation, with "!" behind it when it was named (``Choice.token``).
    Raises: ConfigError when a named kernel cannot be loaded or built.
    """
    implementation, named = choice.removesuffix("!"), choice.endswith("!")
    if implementation == "cpu":
        return plain(*given)
    kernels = operation.kernels[implementation]
    why = _missing(operation.name, implementation)
    if not why:
        function = getattr(_loaded[operation.name, implementation], kernels.forward if way == "forward" else kernels.backward)
        try:
            return function(*(ready(x) if isinstance(x, Tensor) else x for x in given))
        except Exception as error:
            if not _is_build_failure(error):
                raise
            why = _first_line(error)
    if named:
        raise ConfigError(f"{operation.name}: {implementation!r} was named and cannot run: {why}")
    if _loaded[operation.name, implementation] != why:
        _loaded[operation.name, implementation] = why  # the next choice knows
        log.warning("%s: the %s kernel gives way to plain torch: %s", operation.name, implementation, why)
    return plain(*given)


def triton(name: str, op: str, forward: str, backward: str) -> Kernels:
    """The functions of cuda/<name>_triton.py."""
    return Kernels(load=lambda: triton_kernels(name), op=op, forward=forward, backward=backward)


def cuda(name: str, op: str, forward: str, backward: str) -> Kernels:
    """The functions of one namespace of ``blocks.kernels.cuda_library``; its absence is a reason, not an error."""

    def load() -> Any:
        library = import_module("blocks.kernels.cuda_library")
        space = getattr(library, name)
        serves = getattr(space, "serves", None) or library.serves
        return SimpleNamespace(serves=serves, **{function: getattr(space, function) for function in (forward, backward)})

    return Kernels(load=load, op=op, forward=forward, backward=backward)


def ready(x: Tensor) -> Tensor:
    """x as a kernel wants it: contiguous, and on a 16-byte boundary, which a slice of a larger tensor may miss."""
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _is_build_failure(error: Exception) -> bool:
    return isinstance(error, (KernelError, ImportError, OSError)) or type(error).__module__.partition(".")[0] == "triton"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# --- wishes ---------------------------------------------------------------------------------------------------------

_forced: ContextVar[dict[str, Name] | None] = ContextVar("blocks.ops.forced", default=None)


@contextmanager
def forced(wishes: str) -> Iterator[None]:
    """Inside, what ``wishes`` names runs, and nothing else: "reference", or "causal_conv=triton,monarch_matmul=reference".

    Raises: ConfigError for an unknown name.
    """
    token = _forced.set(parse(wishes))
    try:
        yield
    finally:
        _forced.reset(token)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _wish(operation: str) -> tuple[Name | None, str]:
    """What ``forced`` or the environment names for an operation, and which of the two."""
    wishes, source = _forced.get(), "forced()"
    if wishes is None:
        wishes, source = parse(os.environ.get(VARIABLE, "")), VARIABLE
    return wishes.get(operation, wishes.get("")), source


@lru_cache(maxsize=32)
def parse(wishes: str) -> dict[str, Name]:
    """Operation to implementation; "" stands for every other operation. Raises: ConfigError for an unknown name."""
    found: dict[str, Name] = {}
    for wish in filter(None, (part.strip() for part in wishes.split(","))):
        operation, _, implementation = (part.strip() for part in wish.rpartition("="))
        if "=" in wish and operation not in OPERATIONS:
            raise ConfigError(f"{VARIABLE}: unknown operation {operation!r}{did_you_mean(operation, OPERATIONS)}")
        found[operation] = _known(implementation)
    return found


def _known(implementation: str) -> Name:
    if implementation not in NAMES:
        raise ConfigError(f"unknown implementation {implementation!r}{did_you_mean(implementation, NAMES)}")
    return implementation  # type: ignore[return-value]


# --- telling --------------------------------------------------------------------------------------------------------

_said: set[tuple[str, Choice]] = set()


def say(operation: Operation, choice: Choice) -> None:
    """Once per distinct decision. Silent while a compiler traces, which logging would interrupt."""
    if not torch.compiler.is_compiling() and (operation.name, choice) not in _said:
        _said.add((operation.name, choice))
        log.info("%s runs %s: %s", operation.name, choice.implementation, choice.reason)


def report(device: str | None = None, dtypes: Sequence[torch.dtype] | None = None) -> dict[str, dict[str, Any]]:
    """Per operation and dtype: what would run on ``device`` at ordinary sizes, why, and why each other implementation would not.

    By default on the GPU, if there is one, in float32 and bfloat16; else on the CPU in float32. Nothing is built or run.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtypes = dtypes or ((torch.float32, torch.bfloat16) if device == "cuda" else (torch.float32,))
    return {name: {_short(dtype): _of(operation(name), device, dtype) for dtype in dtypes} for name in OPERATIONS}


def operation(name: str) -> Operation:
    """The operation called ``name``. Raises: ConfigError with the nearest name."""
    if name not in OPERATIONS:
        raise ConfigError(f"unknown operation {name!r}{did_you_mean(name, OPERATIONS)}")
    import_module(OPERATIONS[name])
    return _operations[name]


def _of(operation: Operation, device: str, dtype: torch.dtype) -> dict[str, Any]:
    try:
        choice = operation.choose(device, dtype, operation.example)
    except ConfigError as error:
        return {"runs": None, "reason": str(error), "others": {}}
    others = {name: operation.why_not(name, device, dtype, operation.example) for name in NAMES if name != choice.implementation}
    return {
        "runs": choice.implementation,
        "reason": choice.reason,
        "others": {name: why or f"{choice.implementation} comes first" for name, why in others.items()},
    }


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
