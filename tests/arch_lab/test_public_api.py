"""What a notebook sees: the names to complete, the types, and memory on platforms without /proc."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import arch_lab
from arch_lab.study.memory import PeakMemory

ROOT = Path(__file__).resolve().parents[2]


def test_dir_lists_the_public_functions_without_importing_torch() -> None:
    code = "import sys, arch_lab; print(*dir(arch_lab)); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert {"compare", "plan", "load", "generate", "convert"} <= set(done.stdout.split())


@pytest.mark.parametrize("name", arch_lab.__all__)
def test_every_public_name_can_be_fetched(name: str) -> None:
    assert getattr(arch_lab, name)


@pytest.mark.parametrize("package", ["arch_lab", "blocks", "experiments"])
def test_packages_are_marked_as_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def peak_without_proc(monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The fallback behind /proc/self/status, as on macOS and Windows."""

    def absent(self: Path, *_: object, **__: object) -> str:
        raise FileNotFoundError(str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", absent)
        with PeakMemory() as memory:
            return memory.peak()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts per process in /proc")
def test_peak_memory_is_what_was_added_since_the_start() -> None:
    before = torch.ones(16 * 2**20)  # 64 MiB that do not count
    with PeakMemory() as memory:
        del before
        torch.ones(48 * 2**20)
    added = memory.peak()
    assert added is not None and 100 * 2**20 < added < 220 * 2**20


def test_peak_memory_is_in_bytes_on_every_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    kibibytes = peak_without_proc(monkeypatch)
    monkeypatch.setattr(sys, "platform", "darwin")  # getrusage counts bytes there
    assert kibibytes and kibibytes == 1024 * (peak_without_proc(monkeypatch) or 0)


def test_peak_memory_is_unknown_where_the_platform_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_without_proc(monkeypatch) is None
