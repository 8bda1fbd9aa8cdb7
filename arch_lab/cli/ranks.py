"""``fit`` on several devices of one machine: a process per rank, and one that watches them.

The watching process trains nothing. It starts every rank with the same arguments, hands signals on, names a
rank that is killed and ends the others; a rank whose watcher is gone ends by itself. Under torchrun or SLURM,
which start the ranks themselves, none of this is used.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arch_lab.cli.verbs import UsageError

REPORT = "ARCH_LAB_RANK_REPORT"  # variable that names the file in which a rank says how it ended
PATIENCE = 5.0  # seconds between the first failure and the end of the other ranks
POLL = 0.2


class RankError(UsageError):
    """A rank that was killed; the message is one line."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@dataclass(frozen=True)
class End:
    """How a rank ended, as it says itself. ``code``: its exit code."""

    message: str
    code: int
    interrupted: bool = False

    @classmethod
    def read(cls, path: Path) -> End | None:
        """None where the rank left no word."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def is_rank() -> bool:
    return REPORT in os.environ


def run_ranks(arguments: list[str], *, ranks: int, port: int, nodes: int = 1) -> int:
    """Run ``arch-lab ARGUMENTS`` once per rank and return rank 0's exit code.

    Raises: RankError that names the rank killed or failed first, after the others have ended.
    """
    if is_rank():
        raise RuntimeError("a rank may not start ranks")
    with tempfile.TemporaryDirectory(prefix="arch-lab-") as folder:
        reports = [Path(folder) / f"rank-{rank}.json" for rank in range(ranks)]
        processes = [
            _start(arguments, rank, reports[rank], ranks=ranks, port=port, nodes=nodes)
            for rank in range(ranks)
        ]
        received: list[int] = []
        previous_handlers = {
            number: signal.signal(number, _hand_on(processes, received))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            first = _wait(processes)
        finally:
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)
            for process in processes:
                process.kill()
                process.wait()
        if first is not None and received and not any(report.is_file() for report in reports):
            print(f"interrupted by {signal.Signals(received[0]).name} before the first step", file=sys.stderr)
            return 128 + received[0]
        return _outcome(first, [process.returncode for process in processes], reports)


def _start(
    arguments: list[str], rank: int, report: Path, *, ranks: int, port: int, nodes: int
) -> subprocess.Popen[bytes]:
    environment = {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    environment |= {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
    environment |= {
        "LOCAL_RANK": str(rank),
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks * nodes),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # a lost connection is told here, in one line
        REPORT: str(report),
    }
    quiet: Any = subprocess.DEVNULL if rank else None  # rank 0 speaks for all
    # a session of its own: Ctrl-C then reaches each rank once, from here
    command = [sys.executable, "-m", "arch_lab", *arguments]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=quiet, stderr=quiet, start_new_session=True
    )


def _hand_on(processes: list[subprocess.Popen[bytes]], received: list[int]) -> Callable[[int, Any], None]:
    def handler(number: int, frame: Any) -> None:
        received.append(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    return handler


def _wait(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Until all have ended, or some time after one failed: the first to fail, None when none did."""
    first, deadline = None, float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        failed = [rank for rank, process in enumerate(processes) if process.poll() not in (None, 0)]
        if failed and first is None:
            killed = [rank for rank in failed if processes[rank].returncode < 0]
            first, deadline = (killed or failed)[0], time.monotonic() + PATIENCE
        time.sleep(POLL)
    failed = [rank for rank, process in enumerate(processes) if process.poll() not in (None, 0)]
    return failed[0] if first is None and failed else first


def _outcome(first: int | None, codes: list[int], reports: list[Path]) -> int:
    if first is None:
        return 0
    ends = [End.read(report) for report in reports]
    stopped = next((end for end in ends if end and end.interrupted), None)
    if stopped is not None:
        print(stopped.message, file=sys.stderr)
        return stopped.code
    others = f"the other {len(codes) - 1} were ended" if len(codes) > 2 else "the other one was ended"
    if codes[first] < 0 and ends[first] is None:
        name = signal.Signals(-codes[first]).name
        raise RankError(
            f"rank {first} of {len(codes)} was killed by {name} (out of memory?); {others}; "
            "continue with --ckpt_path and the last one",
            -codes[first],
        )
    end = ends[first] or End("error: it printed no message", 1)
    print(end.message, file=sys.stderr)
    return end.code


def report(message: str, code: int, *, interrupted: bool = False) -> None:
    """Leave word of how this rank ended to the process that watches it."""
    path = Path(os.environ[REPORT])
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(asdict(End(message, code, interrupted))), encoding="utf-8")
    os.replace(temporary, path)


def end_with_watcher() -> None:
    """End this rank when the process that started it is gone."""
    watcher = os.getppid()

    def watch() -> None:
        while os.getppid() == watcher:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
