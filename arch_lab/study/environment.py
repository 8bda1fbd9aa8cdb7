"""What a number depends on besides the configuration: machine, versions, code, time."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from arch_lab.study.registry import find_experiment
from arch_lab.version import __version__, commit

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
# what a trained number depends on; reports and command line may change without invalidating finished runs
FINGERPRINTED = (
    "blocks",
    "cuda",
    "arch_lab/models",
    "arch_lab/data",
    "arch_lab/metrics",
    "arch_lab/training",
    "arch_lab/study/run.py",
    "arch_lab/study/spec.py",
)
SOURCES = (".py", ".cu", ".cuh", ".h")


@lru_cache(maxsize=1)
def code_fingerprint() -> str:
    """Hash of every source file of ours that can change a run's numbers, kernels included, experiments apart."""
    return _fingerprint(FINGERPRINTED)


@lru_cache
def experiment_fingerprint(name: str) -> str:
    """Hash of an experiment's own sources, which code_fingerprint leaves out."""
    return _fingerprint(find_experiment(name).code())


@lru_cache
def gate_fingerprint(experiment: str) -> str:
    """Hash of what certifies a model of this experiment: the laws and the experiment's own certificate."""
    return _fingerprint(["arch_lab/laws", *find_experiment(experiment).code()])


@lru_cache
def judge_fingerprint(experiment: str) -> str:
    """Hash of all sources between the runs of a study and its study.json."""
    return _fingerprint(["arch_lab", "blocks", *find_experiment(experiment).code()])


def _fingerprint(parts: Sequence[str | Path]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        path = PACKAGE_ROOT / part
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in SOURCES and file.is_file():
                inside = file.is_relative_to(PACKAGE_ROOT)  # else of another package, wherever that is installed
                name = file.relative_to(PACKAGE_ROOT).as_posix() if inside else file.name
                digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What a number may depend on beside code and data, in its last bits or in its speed."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"cpu": cpu_name(), "device": device, "threads": torch.get_num_threads()}


def environment() -> dict[str, Any]:
    return {
        "arch_lab": __version__,
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
