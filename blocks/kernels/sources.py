"""Where kernel sources lie, and how a Triton one becomes a module.

Sources are files of the folder ``cuda`` in a checkout and of ``blocks/_cuda_src`` in a wheel: the import name
``cuda`` belongs to NVIDIA's namespace package, so nothing is ever imported from that folder by name.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from blocks.errors import UserError, did_you_mean

_PLACES = (Path(__file__).parents[1] / "_cuda_src", Path(__file__).parents[2] / "cuda")


class KernelError(UserError):
    """A kernel cannot be found, built or started; the caller falls back to plain torch."""


def kernel_source(name: str) -> Path:
    """The source file called ``name`` ("monarch.cu"). Raises: KernelError with the nearest name."""
    for folder in _PLACES:
        if (folder / name).is_file():
            return folder / name
    names = sorted(
        {
            path.name
            for folder in _PLACES
            if folder.is_dir()
            for path in folder.iterdir()
            if path.suffix in (".cu", ".cuh", ".py")
        }
    )
    raise KernelError(f"no kernel source {name!r}{did_you_mean(name, names)}")


@cache
def triton_kernels(name: str) -> ModuleType:
    """The module in ``cuda/<name>_triton.py``, imported once. Raises: KernelError when Triton is not
    installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise KernelError("Triton is not installed (pip install 'arch-lab[triton]')")
    path = kernel_source(f"{name}_triton.py")
    module_name = f"blocks.kernels._{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Triton reads a kernel's globals and source through its module, so it must be findable before it runs
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    if "triton_kernels" in vars(module):  # a kernel file may load another one, but imports nothing from here
        vars(module)["triton_kernels"] = triton_kernels
    return module
