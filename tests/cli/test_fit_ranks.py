"""``fit`` on two devices equals one; a rank that is killed is named; nothing is left running."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arch_lab import cli
from tests.small_fit import lines_of, small_fit, weights_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def losses(folder: Path) -> list[tuple[str, float]]:
    """Every training loss and score that CSVLogger wrote."""
    rows = csv.DictReader((folder / "metrics.csv").open())
    return [
        (name, float(value)) for row in rows for name, value in sorted(row.items()) if "/" in name and value
    ]


def test_two_ranks_train_and_score_as_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exact = ["--trainer.precision=64-true", "--trainer.gradient_clip_val=1.0"]
    logged = ["--trainer.logger=CSVLogger", "--trainer.log_every_n_steps=1"]
    fit = [
        "fit",
        *small_fit(tmp_path),
        "--trainer.max_steps=5",
        "--trainer.val_check_interval=2",
        *exact,
        *logged,
    ]
    assert cli.main(fit) == 0
    alone = capfd.readouterr().out
    assert cli.main([*fit, *TWO]) == 0
    printed = capfd.readouterr()
    assert printed.out == alone.replace("version_0", "version_1") and not lines_of(printed.err)
    folders = [Path("runs/fit/version_0"), Path("runs/fit/version_1")]
    for (name, one), (other_name, two) in zip(*map(losses, folders), strict=True):
        assert name == other_name and two == pytest.approx(one, rel=1e-10)
    one, two = (weights_of(folder / "checkpoints" / "final-step=5.ckpt") for folder in folders)
    assert (
        one.keys() == two.keys() and max((one[name] - two[name]).abs().max().item() for name in one) < 1e-10
    )


def children(process: int) -> list[int]:
    """Processes that ``process`` started."""
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def rank_of(process: int) -> str:
    pairs = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return dict(pair.decode().partition("=")[::2] for pair in pairs if pair)["LOCAL_RANK"]


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[subprocess.Popen[Any]]:
    """A fit on two ranks that would take hours, in the middle of its steps."""
    logged = ["--trainer.logger=CSVLogger", "--trainer.log_every_n_steps=1"]
    command = [
        sys.executable,
        "-m",
        "arch_lab",
        "fit",
        *small_fit(tmp_path),
        "--trainer.max_steps=1000000",
        *TWO,
        *logged,
    ]
    command += ["--trainer.val_check_interval=10", "--trainer.limit_val_batches=1"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 180
    while not list(tmp_path.glob("runs/fit/version_0/checkpoints/*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.5)
    ranks = children(process.pid)
    yield process
    for pid in [process.pid, *ranks]:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_rank_ends_the_command_and_is_named(rank: str, endless: subprocess.Popen[Any]) -> None:
    victim = next(pid for pid in children(endless.pid) if rank_of(pid) == rank)
    started = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    (error,) = lines_of(endless.communicate(timeout=60)[1])
    assert time.monotonic() - started < 30 and endless.returncode == 137
    assert error.startswith(f"error: rank {rank} of 2 was killed by SIGKILL")


@pytest.mark.slow
def test_a_rank_starts_no_ranks(endless: subprocess.Popen[Any]) -> None:
    ranks = children(endless.pid)
    assert [rank_of(pid) for pid in ranks] == ["0", "1"] and not any(map(children, ranks))


@pytest.mark.slow
def test_sigterm_to_the_command_saves_a_checkpoint_on_all_ranks(
    endless: subprocess.Popen[Any], tmp_path: Path
) -> None:
    endless.terminate()
    (error,) = lines_of(endless.communicate(timeout=60)[1])
    assert endless.returncode == 143
    assert "fit was interrupted by SIGTERM at step" in error and "checkpoints/interrupted.ckpt" in error
    assert weights_of(tmp_path / "runs/fit/version_0/checkpoints/interrupted.ckpt")


@pytest.mark.slow
def test_ranks_end_when_the_command_that_started_them_is_killed(endless: subprocess.Popen[Any]) -> None:
    ranks = children(endless.pid)
    endless.kill()
    deadline = time.monotonic() + 30
    alive = ranks
    while alive and time.monotonic() < deadline:
        time.sleep(0.2)
        alive = [
            pid
            for pid in ranks
            if Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()
        ]
    assert len(ranks) == 2 and not alive
