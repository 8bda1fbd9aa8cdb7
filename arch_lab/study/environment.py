"""What a number depends on besides the configuration: machine, versions, code, time."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import torch

from arch_lab.judge.records import Machine
from arch_lab.stored import Facts
from arch_lab.study.registry import find_experiment
from arch_lab.study.sources import PACKAGE_ROOT
from arch_lab.version import __version__, commit


@lru_cache
def gate_fingerprint(experiment: str) -> str:
    """Hash of what certifies a model of this experiment: the laws and the experiment's own certificate."""
    return _fingerprint(["arch_lab/laws", *find_experiment(experiment).code()])


@lru_cache
def judge_fingerprint(experiment: str) -> str:
    """Hash of all sources between the runs of a study and its study.json; what a run uses is in its own identity."""
    return _fingerprint(["arch_lab", *find_experiment(experiment).code()])


def _fingerprint(parts: Sequence[str | Path]) -> str:
    digest = hashlib.sha256()
    for source in parts:
        path = PACKAGE_ROOT / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix == ".py" and file.is_file():
                is_ours = file.is_relative_to(
                    PACKAGE_ROOT
                )  # else of another package, wherever that is installed
                name = file.relative_to(PACKAGE_ROOT).as_posix() if is_ours else file.name
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


def machine() -> Machine:
    """Where a trial runs: what its speed and the last digits of its scores depend on."""
    return Machine(
        cpu=cpu_name(),
        cores=os.cpu_count(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def environment() -> Facts:
    """Versions, code, machine and time."""
    return {
        "arch_lab": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **machine().to_json(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
