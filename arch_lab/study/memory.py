"""Peak memory of one run: the GPU allocator's peak, or the process's peak resident size on a CPU."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch


class PeakMemory:
    """``with PeakMemory() as memory: …; memory.peak()`` in bytes; None where the platform does not tell (Windows).

    On a CPU this is the whole process (interpreter and libraries included, several hundred MiB), reset at the start
    where Linux allows it; compare arms, not machines.
    """

    def __enter__(self) -> PeakMemory:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (proc(5))
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def peak(self) -> int | None:
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        try:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        try:
            import resource  # absent on Windows
        except ImportError:
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (
            peak if sys.platform == "darwin" else peak * 1024
        )  # bytes on macOS, KiB elsewhere (getrusage(2))
