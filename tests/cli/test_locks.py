"""A folder has one writer at a time; a dead one does not keep it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import stored

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from arch_lab.files import folder_lock
with folder_lock(sys.argv[1], "arch-lab compare"):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(finished: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the study's folder."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(finished / "runs/small")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("command", [("compare", "small.yaml"), ("report", "runs/small")])
def test_the_second_writer_ends_at_once_and_names_the_first(
    finished: Path, holder: subprocess.Popen[str], command: tuple[str, ...]
) -> None:
    before = stored.tree(finished / "runs")
    done = stored.run(finished, *command)
    assert done.code == 2
    assert (
        f"error: runs/small is in use by arch-lab compare (process {holder.pid} on " in done.last
        and " since 20" in done.last
    )
    assert stored.tree(finished / "runs") == before


def test_a_holder_that_was_killed_frees_the_folder(finished: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (finished / "runs/small/.lock").is_file()
    assert stored.compare(finished).code == 0
    assert not (finished / "runs/small/.lock").exists()


def test_a_link_at_the_lock_is_named_and_not_followed(finished: Path) -> None:
    (finished / "precious").write_text("kept")
    (finished / "runs/small/.lock").symlink_to(finished / "precious")
    done = stored.compare(finished)
    assert done.code == 2 and done.last.endswith("runs/small/.lock is a symbolic link; remove it"), done.last
    assert (finished / "precious").read_text() == "kept"
