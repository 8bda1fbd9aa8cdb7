"""Set-up as `make` runs it: which torch it asks for. The .venv's Python is a stand-in that records its arguments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
refused = os.environ.get("REFUSE", "")
sys.exit(1 if refused and refused in sys.argv else 0)
"""


def install_commands(folder: Path, **environment: str) -> tuple[list[list[str]], str]:
    """Commands that set-up gave to uv, and what it printed, in a copy of the checkout at ``folder``."""
    log, python = folder / "log", folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "install.py", folder / ".ci")
    python.write_text(STAND_IN.format(python=sys.executable, log=str(log)))
    python.chmod(0o755)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "ARCH_LAB_"))}
    command = [sys.executable, str(folder / ".ci" / "install.py")]
    done = subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = [json.loads(line) for line in log.read_text().splitlines()]
    return [c for c in commands if c[:4] == ["-m", "uv", "pip", "install"]], done.stdout


def backend(command: list[str]) -> str | None:
    return command[command.index("--torch-backend") + 1] if "--torch-backend" in command else None


linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="torch with CUDA is the default on Linux alone"
)


@linux_only
def test_setup_asks_for_the_cpu_build_without_an_nvidia_device(tmp_path: Path) -> None:
    (command,), printed = install_commands(tmp_path, ARCH_LAB_NVIDIA="0")
    assert backend(command) == "cpu" and "2.2 GB" in printed and "--compile-bytecode" in command


def test_setup_leaves_the_build_alone_with_an_nvidia_device(tmp_path: Path) -> None:
    (command,), printed = install_commands(tmp_path, ARCH_LAB_NVIDIA="1")
    assert backend(command) is None
    assert "5.5 GB" in printed or sys.platform != "linux"


def test_setup_takes_torch_from_a_folder_of_local_wheels(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    (command,), _ = install_commands(tmp_path / "checkout", ARCH_LAB_NVIDIA="0", PIP_FIND_LINKS=str(wheels))
    assert backend(command) is None and command[command.index("--find-links") + 1] == str(wheels)


@linux_only
def test_local_wheels_without_torch_do_not_bring_the_cuda_build(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "torchmetrics-1.9.0-py3-none-any.whl").touch()
    (command,), _ = install_commands(tmp_path / "checkout", ARCH_LAB_NVIDIA="0", PIP_FIND_LINKS=str(wheels))
    assert backend(command) == "cpu"


def test_setup_follows_a_backend_that_the_user_chose(tmp_path: Path) -> None:
    (command,), printed = install_commands(tmp_path, ARCH_LAB_NVIDIA="0", UV_TORCH_BACKEND="rocm7.1")
    assert backend(command) is None and "rocm7.1" in printed


@linux_only
def test_setup_falls_back_when_no_cpu_build_can_be_fetched(tmp_path: Path) -> None:
    commands, printed = install_commands(tmp_path, ARCH_LAB_NVIDIA="0", REFUSE="--torch-backend")
    assert [backend(c) for c in commands] == ["cpu", None]
    assert "larger" in printed
