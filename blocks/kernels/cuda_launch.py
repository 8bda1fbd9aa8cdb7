"""Libraries built from ``cuda/*.cu``, loaded and called by ctypes.

C functions know no shapes: ``checked`` holds every tensor to its shape, dtype and device before an address
leaves Python.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from blocks.errors import ConfigError
from blocks.kernels.nvcc import build
from blocks.kernels.sources import KernelError

ELEMENTS = {torch.float32: "float", torch.bfloat16: "Bf16", torch.float16: "Fp16"}

# a build that failed is its reason; it is not tried again in this process
_loaded: dict[tuple[str, str, str], ctypes.CDLL | str] = {}


def library(source: str, dtype: torch.dtype, device: torch.device) -> ctypes.CDLL:
    """The built and loaded library of one source for one dtype and device. Raises: KernelError with the
    reason, each time.
    """
    major, minor = torch.cuda.get_device_capability(device)
    key = (source, ELEMENTS[dtype], f"sm_{major}{minor}")
    if key not in _loaded:
        try:
            _loaded[key] = load(build(source, element=key[1], arch=key[2]))
        except KernelError as error:
            _loaded[key] = str(error)
    cached = _loaded[key]
    if isinstance(cached, str):
        raise KernelError(cached)
    return cached


def load(path: Path) -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelError(f"{path} does not load: {error}; remove it to build it again") from None
    for name in ("arch_lab_error_name", "arch_lab_error_text"):
        getattr(loaded, name).restype = ctypes.c_char_p
    return loaded


def launch(loaded: ctypes.CDLL, name: str, *arguments: Tensor | int | ctypes.c_void_p | None) -> None:
    """Calls the C function ``name``; tensors go as pointers, None as a null pointer.

    Raises: KernelError with CUDA's name for what went wrong.
    """
    code = getattr(loaded, name)(*(_c(argument) for argument in arguments))
    if code:
        error, text = (
            getattr(loaded, f"arch_lab_error_{kind}")(ctypes.c_int64(code)).decode()
            for kind in ("name", "text")
        )
        raise KernelError(f"{name}: {error} ({code}), {text}")


def _c(argument: Tensor | int | ctypes.c_void_p | None) -> ctypes.c_void_p | ctypes.c_int64:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())  # a bare int would travel as 32 bits
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    return argument if isinstance(argument, ctypes.c_void_p) else ctypes.c_void_p(None)


def on_stream(source: str, name: str, like: Tensor, *arguments: Tensor | int | None) -> None:
    """Call ``name`` of the library on torch's current stream for ``like``."""
    tf32 = int(torch.backends.cuda.matmul.fp32_precision == "tf32")
    with torch.cuda.device(like.device):
        stream = ctypes.c_void_p(torch.cuda.current_stream(like.device).cuda_stream)
        launch(library(source, like.dtype, like.device), name, *arguments, tf32, like.device.index, stream)


def checked(
    operation: str, expected: Mapping[str, tuple[Tensor | None, tuple[int, ...]]], *, align: bool = False
) -> list[Tensor]:
    """The tensors, contiguous, when shapes, dtypes and devices fit. None stays None."""
    (first, (leader, _)), *_ = expected.items()
    assert leader is not None
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ConfigError(f"{operation}: {name} must have shape {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype != leader.dtype or tensor.dtype not in ELEMENTS:
            dtypes = (
                ", ".join(map(name_of, ELEMENTS))
                if name == first
                else f"{name_of(leader.dtype)} like {first}"
            )
            raise ConfigError(f"{operation}: {name} must be {dtypes}, got {name_of(tensor.dtype)}")
    for name, (tensor, _) in expected.items():
        if tensor is not None and (tensor.device != leader.device or not tensor.is_cuda):
            device = "a CUDA device" if not leader.is_cuda else str(leader.device)
            raise KernelError(f"{operation}: {name} must be on {device}, it is on {tensor.device}")
    return [_dense(tensor, align) for tensor, _ in expected.values()]  # type: ignore[misc]


def _dense(tensor: Tensor | None, align: bool) -> Tensor | None:
    if tensor is None:
        return None
    tensor = tensor.detach().contiguous()
    return tensor.clone() if align and tensor.data_ptr() % 16 else tensor


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
