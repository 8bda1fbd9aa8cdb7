"""The host twins of cuda/*.cu: the kernels' own bodies on this processor, compiled by a plain C++ compiler and called through ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from blocks.kernels.cuda_launch import ELEMENTS
from blocks.kernels.sources import kernel_source

MISSING_BARRIER = -1  # the code of cuda/tile.cuh for two threads meeting in shared memory without a barrier
GUARD = 64  # numbers before and after each output that no kernel may touch


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="arch-lab-twins-")  # removed when the interpreter ends


def compile_twin(source: Path, element: str) -> ctypes.CDLL:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler (g++, or the one named by CXX)")
    target = Path(folder().name) / f"{source.parent.name}-{source.stem}-{element}.so"
    # -O1: the unrolled bodies compile in 1-3 s, at -O2 in three times that
    command = [
        compiler,
        "-x",
        "c++",
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-shared",
        f"-DARCH_LAB_ELEMENT={element}",
        str(source),
        "-o",
        str(target),
    ]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(target))


@cache
def twin(name: str, dtype: torch.dtype) -> ctypes.CDLL:
    return compile_twin(kernel_source(name), ELEMENTS[dtype])


def call(library: ctypes.CDLL, name: str, *arguments: Tensor | int | None) -> int:
    def c(argument: Tensor | int | None) -> ctypes.c_void_p | ctypes.c_int64:
        if isinstance(argument, int):
            return ctypes.c_int64(argument)
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())

    return getattr(library, f"{name}_host")(*map(c, arguments))


def poisoned(*shape: int, dtype: torch.dtype, offset: int = 0) -> Tensor:
    """An output full of NaN between guards; ``offset`` numbers off a 16-byte boundary."""
    size = torch.Size(shape).numel()
    whole = torch.full((GUARD + offset + size + GUARD,), float("nan"), dtype=dtype)
    whole[: GUARD + offset] = whole[GUARD + offset + size :] = 7.0
    return whole[GUARD + offset : GUARD + offset + size].view(shape)


def guards_hold(output: Tensor) -> bool:
    storage = output.new_empty(0).set_(output.untyped_storage())
    start = output.storage_offset()
    return bool((storage[:start] == 7).all() and (storage[start + output.numel() :] == 7).all())


def placed(values: Tensor, offset: int) -> Tensor:
    """A copy that starts ``offset`` numbers off a 16-byte boundary, between NaNs: reading past an edge and using it shows."""
    whole = torch.full((GUARD + offset + values.numel() + GUARD,), float("nan"), dtype=values.dtype)
    copy = whole[GUARD + offset : GUARD + offset + values.numel()].view(values.shape)
    return copy.copy_(values)
