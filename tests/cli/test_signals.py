"""SIGINT and SIGTERM end a study after a checkpoint, with the exit status that says which."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli import stored

ROOT = Path(__file__).resolve().parents[2]
ONE = "runs/small/runs/gemma1/lr-0.004_seed-0"


def start(folder: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "ARCH_LAB_CACHE": str(folder / "cache"), "PYTHONPATH": path}
    command = [sys.executable, "-m", "arch_lab", "compare", "small.yaml", "--threads", "1"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [
        pytest.param(signal.SIGTERM, 143, "terminated", id="SIGTERM", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "interrupted", id="SIGINT"),
    ],
)
def test_a_signal_ends_a_study_after_a_checkpoint(
    tmp_path: Path, number: int, status: int, word: str
) -> None:
    budget = {
        "params": 1.5e4,
        "tokens": 640_000,
        "allow_unmatched": True,
    }  # 10,000 steps: no test waits for their end
    stored.write_study(tmp_path, arms=[{"architecture": "gemma1", "shape": stored.SHAPE}], budget=budget)
    process = start(tmp_path)
    log = tmp_path / ONE / "metrics.jsonl"
    end = time.monotonic() + 240
    while not (log.is_file() and log.stat().st_size > 100):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert err.rstrip().endswith(f"{word}; the same command continues where it stopped")
    assert (tmp_path / ONE / "last.ckpt").is_file(), "training was seconds old: no checkpoint was due by time"
    names = {p.name for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    assert not any(name.endswith(".part") or name == ".lock" for name in names)
    assert json.loads((tmp_path / ONE / "config.json").read_text())["arm"] == "gemma1"
