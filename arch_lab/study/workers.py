"""One worker process of a study, seen from both sides: the handle that sends it trials, and the loop that runs them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from arch_lab.memory import keep_memory, refuse_huge_pages
from arch_lab.signals import terminable
from blocks.errors import UserError
from blocks.registry import trusted, trusting
from blocks.user_code import describe, place

GRACE = 2.5  # seconds for a checkpoint after SIGTERM, then SIGKILL
STEP_SECONDS = 0.2  # between two reports of progress of a trial


class WorkerError(Exception):
    """A mistake of ours in a worker process; the message ends with the traceback there."""


@dataclass(frozen=True)
class Message:
    """``kind``: ``result`` (the stored result), ``error`` (an exception to raise), ``run``, ``step`` or ``note`` (facts
    for the observer)."""

    kind: str
    content: Any


class Worker:
    """Handle of a worker process. ``index``: the trial it works on; None when it is free."""

    def __init__(self, context: Any, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would copy locked mutexes of torch's threads
        self.connection, far_end = spawn.Pipe()
        self.process = spawn.Process(
            target=work, args=(far_end, context, threads, tuple(trusted())), daemon=True
        )
        refuse_huge_pages()  # a new process may import torch before its first line runs
        with without_main():
            self.process.start()
        far_end.close()
        self.index: int | None = None

    def send(self, index: int, trial: Any) -> None:
        self.index = index
        with contextlib.suppress(OSError):  # it has died; that is noticed when its messages are read
            self.connection.send(trial)

    def received(self) -> Message | None:
        """The next message; None when the process is dead and has said all."""
        try:
            message: Message = self.connection.recv()
            return message
        except (EOFError, OSError, pickle.UnpicklingError):
            return None

    def terminate(self) -> None:
        """Ask the worker to save its trial and end."""
        with contextlib.suppress(OSError, ValueError):
            self.process.terminate()

    def end(self, seconds: float) -> None:
        """Wait until the process is gone; after ``seconds`` it is killed."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()

    def cause(self) -> str:
        """How the process ended, in words."""
        code = self.process.exitcode
        if code is not None and code < 0:
            return signal.Signals(-code).name
        return f"exit code {code}"


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Inside, a new process does not run the caller's script again: trials need nothing of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def wait_for_messages(workers: Sequence[Worker]) -> Iterator[tuple[Worker, Message | None]]:
    """A message of each worker that has one, once any has; None from one that is dead."""
    by_connection = {worker.connection: worker for worker in workers}
    for connection in wait(list(by_connection)):
        worker = by_connection[connection]  # type: ignore[index]
        yield worker, worker.received()


# --- in the worker process ----------------------------------------------------------------------------------------------


def work(connection: Connection, context: Any, threads: int, modules: tuple[str, ...]) -> None:
    """Run trials until the connection closes. Ctrl-C is the parent's to handle; SIGTERM ends the trial after a checkpoint."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a terminal sends Ctrl-C to the whole group
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_memory()
    import torch

    torch.set_num_threads(threads)
    try:
        with terminable(), trusting(modules):
            context.open()
            while True:
                trial = connection.recv()
                connection.send(
                    Message("run", {})
                )  # time is counted from here, not from the start of the process
                connection.send(Message("result", context.run(trial, _Reporter(connection))))
    except KeyboardInterrupt:
        os._exit(0)  # the checkpoint is written, and the user waits: no time for the interpreter's own end
    except (EOFError, BrokenPipeError):
        pass
    except BaseException as error:
        with contextlib.suppress(OSError):
            connection.send(Message("error", _portable(error)))


class _Reporter:
    """Observer that sends events to the parent, steps at most every ``STEP_SECONDS``."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.last = connection, 0.0

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        moment = time.monotonic()
        if event == "step":
            if moment - self.last < STEP_SECONDS and facts["step"] < facts["steps"]:
                return
            self.last = moment
        self.connection.send(Message(event, facts))


def _portable(error: BaseException) -> Exception:
    """``error`` as an exception that the parent can raise: tracebacks, and classes of the user's, stay behind."""
    if isinstance(error, UserError):
        return UserError(str(error))
    if place(error):
        return UserError(describe(error))
    lines = "".join(traceback.format_exception(error))
    return WorkerError(f"{type(error).__name__}: {error} (in a worker process)\n{lines}")


def _end_with_parent() -> None:
    """End this process when its parent is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)
