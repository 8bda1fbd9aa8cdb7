"""Memory of this machine and of this process: how much is available, and what becomes of freed buffers.

glibc maps a large buffer anew each time and gives it back to the system when it is freed; the next step then pays
a page fault for every 4 KB again. A process that trains asks it to keep freed buffers instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

VARIABLE = "ARCH_LAB_KEEP_MEMORY"  # 0: the allocator stays as it is
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # of torch, which reads it when it first allocates
SETTINGS_OF_THE_USER = (
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_TOP_PAD_",
)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
NEVER = 2**30  # bytes: buffers up to here come from the heap, and as much may lie free at its end
OLD_LIMIT = 2**25  # the largest threshold that glibc before 2.35 accepts


def available_memory() -> int | None:
    """Bytes of memory that are free or can be freed; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def keep_memory() -> bool:
    """Let the allocator keep freed buffers for the next step; whether it does from now on.

    Best called before torch is imported, see ``refuse_huge_pages``. Nothing changes without glibc, with
    ``ARCH_LAB_KEEP_MEMORY=0``, or where the user has set glibc's own variables.
    """
    library = _glibc()
    if library is None or not keeps_memory():
        return False
    refuse_huge_pages()
    is_set = library.mallopt(M_TRIM_THRESHOLD, NEVER)
    return bool(
        is_set and (library.mallopt(M_MMAP_THRESHOLD, NEVER) or library.mallopt(M_MMAP_THRESHOLD, OLD_LIMIT))
    )


def refuse_huge_pages() -> None:
    """Let torch use ordinary pages in this process, unless it has begun to allocate, and in processes started from here.

    Huge pages make faulting cheap, which kept buffers do not pay for; their alignment leaves gaps in the heap, up to
    80 % of the memory of a step. Nothing changes where buffers are not kept.
    """
    if keeps_memory():
        os.environ[HUGE_PAGES] = "0"


def keeps_memory() -> bool:
    """Whether processes that train here keep freed buffers, as ``keep_memory`` decides."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    is_chosen = "glibc.malloc" in tunables or any(name in os.environ for name in SETTINGS_OF_THE_USER)
    return os.environ.get(VARIABLE, "") != "0" and not is_chosen and _glibc() is not None


def release_memory() -> None:
    """Give freed buffers back to the system."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError):
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            return library
    return None
