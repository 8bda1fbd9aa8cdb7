"""Verbs run in process as in a terminal of a given width, and a real pseudo-terminal for a child process."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from arch_lab.cli import main

ROOT = Path(__file__).resolve().parents[2]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


def shown_at(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What a verb prints in a terminal of ``width`` columns, without colours."""
    for name, value in {
        "COLUMNS": str(width),
        "TTY_COMPATIBLE": "1",
        "NO_COLOR": "1",
        "TERM": "xterm",
    }.items():
        monkeypatch.setenv(name, value)

    def show(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return CONTROL.sub("", capsys.readouterr().out)

    return show


def in_terminal(width: int, *arguments: str, cwd: Path) -> str:
    """Everything a child process writes to a pseudo-terminal of ``width`` columns, control sequences included."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "TTY_COMPATIBLE")}
    environment |= {"TERM": "xterm", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "arch_lab", *arguments]
    child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=environment)
    os.close(slave)
    written = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the child has closed its side
            break
        if not chunk:
            break
        written += chunk
    os.close(master)
    assert child.wait() == 0, written.decode()
    return written.decode()
