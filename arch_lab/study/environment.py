"""What a number depends on besides the configuration: machine, versions, code, time."""

from __future__ import annotations

import hashlib
import os
import platform
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import arch_lab
from arch_lab.version import commit

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
# what a trained number depends on; reports and command line may change without invalidating finished runs
FINGERPRINTED = ("blocks", "arch_lab/architecture", "arch_lab/data", "arch_lab/training", "arch_lab/study/run.py")


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """Hash of every source file that can change a run's numbers."""
    digest = hashlib.sha256()
    for part in FINGERPRINTED:
        path = PACKAGE_ROOT / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(PACKAGE_ROOT)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    return {
        "arch_lab": arch_lab.__version__,
        "commit": commit(),
        "code": code_fingerprint(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
