"""Peak memory that one trial adds: on the GPU, or to this process."""

from __future__ import annotations

import contextlib
import gc
import sys
from pathlib import Path

import torch

from arch_lab.memory import release_memory


class PeakMemory:
    """``with PeakMemory() as memory: …; memory.peak()`` in bytes; None where the platform does not tell (Windows).

    On a CPU: the process's peak resident size less its size at the start, so interpreter, libraries and data do not count.
    """

    def __enter__(self) -> PeakMemory:
        self._start = 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            gc.collect()
            release_memory()  # else what an earlier trial freed would be hidden in this one's start
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (proc(5))
            self._start = _status("VmRSS") or 0
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def peak(self) -> int | None:
        """Bytes at the peak since the start, without what was there at the start."""
        if torch.cuda.is_available():
            return int(torch.cuda.max_memory_allocated())
        peak = _status("VmHWM")
        if peak is None:
            peak = _peak_of_process()
        return None if peak is None else max(0, peak - self._start)


def _status(key: str) -> int | None:
    """A line of /proc/self/status in bytes; None where there is no such file."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _peak_of_process() -> int | None:
    try:
        import resource  # absent on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere (getrusage(2))
