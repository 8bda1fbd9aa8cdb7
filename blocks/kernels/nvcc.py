"""CUDA C++ sources become shared libraries: once, with the nvcc at hand, into a cache of the user's.

A library is named by what decides its content: the source with all it includes, the number type, the GPU
architecture, nvcc's version and flags. It holds plain C functions, so neither torch's headers nor Python's
ABI matter, and one file serves every torch and Python.
The cache is ``$ARCH_LAB_CACHE/kernels``, else ``arch_lab/kernels`` under ``$XDG_CACHE_HOME`` or ``~/.cache``.
nvcc is looked up on PATH, then under ``$CUDA_HOME/bin``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from blocks.kernels.sources import KernelError, kernel_source

FLAGS = ("-O3", "-std=c++17", "-Xcompiler", "-fPIC", "-shared")
# of a build on one processor core; for the line that announces it
SECONDS = {"block_diagonal_gemm.cu": 5, "monarch.cu": 10}


def find_nvcc() -> Path:
    """The path of nvcc. Raises: KernelError when it is missing."""
    home = os.environ.get("CUDA_HOME")
    executable = shutil.which("nvcc") or (
        shutil.which("nvcc", path=str(Path(home) / "bin")) if home else None
    )
    if executable is None:
        raise KernelError(
            "no nvcc on PATH or in $CUDA_HOME/bin; CUDA C++ kernels are built with it on first use"
        )
    return Path(executable)


def nvcc_version(nvcc: Path) -> str:
    """Its last lines, build number included. Raises: KernelError when it does not run."""
    return _version(nvcc, nvcc.stat().st_mtime_ns)


@cache
def _version(nvcc: Path, changed: int) -> str:
    return _run([str(nvcc), "--version"], "nvcc --version").strip()


def with_includes(source: Path) -> list[Path]:
    """The source and every file of ours that it includes, in the order met. Raises: KernelError when one is
    missing.
    """
    files, waiting = [], [source]
    while waiting:
        file = waiting.pop(0)
        if file in files:
            continue
        files.append(file)
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', _text(file), flags=re.MULTILINE):
            waiting.append(file.parent / name)
    return files


def cache_folder() -> Path:
    base = os.environ.get("ARCH_LAB_CACHE")
    root = (
        Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arch_lab"
    )
    return root / "kernels"


def build(name: str, *, element: str, arch: str) -> Path:
    """The shared library of ``cuda/<name>`` for one number type ("Bf16") and architecture ("sm_90").

    Built unless it is there.

    Two processes may build at once: each writes a file of its own and renames it, the second replaces the
    first by its equal.
    Raises: KernelError with the reason: no nvcc, nvcc's first error, no place to write.
    """
    source, nvcc = kernel_source(name), find_nvcc()
    digest = hashlib.sha256()
    for text in (*(_text(file) for file in with_includes(source)), element, arch, nvcc_version(nvcc), *FLAGS):
        digest.update(text.encode() + b"\0")
    library = cache_folder() / f"{source.stem}-{element}-{arch}-{digest.hexdigest()[:16]}.so"
    if library.is_file():
        return library
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        handle, part_name = tempfile.mkstemp(dir=library.parent, prefix=f".{library.stem}-", suffix=".so")
    except OSError as error:
        raise KernelError(
            f"cannot write to the kernel cache {library.parent} ({error.strerror}); "
            "set ARCH_LAB_CACHE to a folder that can be written"
        ) from None
    os.close(handle)
    part_file = Path(part_name)
    print(
        f"arch-lab: building {name} ({element.lower()}) for {arch}, once, about {SECONDS.get(name, 10)} s",
        file=sys.stderr,
        flush=True,
    )
    command = [
        str(nvcc),
        *FLAGS,
        f"-arch={arch}",
        f"-DARCH_LAB_ELEMENT={element}",
        str(source),
        "-o",
        str(part_file),
    ]
    try:
        _run(command, f"nvcc failed on {name}")
        if not part_file.stat().st_size:
            raise KernelError(f"nvcc failed on {name}: it reported success and wrote nothing")
        os.replace(part_file, library)
    except OSError as error:
        raise KernelError(f"cannot write {library} ({error.strerror})") from None
    finally:
        part_file.unlink(missing_ok=True)
    return library


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise KernelError(f"kernel source {file} cannot be read ({error.strerror})") from None


def _run(command: list[str], label: str) -> str:
    """Standard output. Raises: KernelError with the first line that speaks of an error."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise KernelError(f"{label}: {command[0]} does not run ({error.strerror})") from None
    if process.returncode == 0:
        return process.stdout
    lines = [line.strip() for line in (process.stderr + process.stdout).splitlines() if line.strip()]
    reason = next(
        (line for line in lines if "error" in line.lower()),
        lines[0] if lines else f"exit code {process.returncode}",
    )
    raise KernelError(f"{label}: {reason}")
