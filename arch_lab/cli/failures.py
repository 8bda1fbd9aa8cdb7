"""Every failure as one line: whose mistake it is, what to do, and the exit code.

Imports neither torch nor lightning: a wrong option must be answered at once.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from arch_lab.cli.verbs import UsageError

# what a person can mend without reading code, and how
MENDABLE = {
    errno.ENOSPC: "no space left on the device; free some, or write elsewhere with --output",
    errno.EDQUOT: "disk quota exceeded; free some space, or write elsewhere with --output",
    errno.EROFS: "the file system is read-only; write elsewhere with --output",
    errno.EACCES: "permission denied; check who owns it, or choose another folder",
    errno.EPERM: "operation not permitted; check who owns it, or choose another folder",
}

# what only a limit of Python or of the machine refused, where no check came before it
LIMITS: dict[type[BaseException], str] = {
    MemoryError: "not enough memory",
    RecursionError: "an input is nested too deeply",
    OverflowError: "a number is too large",
    UnicodeError: "a text is not valid UTF-8",
}
PLUGINS = {"callbacks": "callback", "loggers": "logger"}  # folders of Lightning


def explain(error: BaseException) -> tuple[str, int]:
    """The line to print for ``error`` and the exit code."""
    for cause in chain(error):
        if isinstance(cause, UsageError) or _is_user_error(cause):
            return f"error: {one_line(cause)}", int(getattr(cause, "exit_code", 2))
    for cause in chain(error):
        if isinstance(cause, OSError) and cause.errno in MENDABLE:
            return f"error: {cause.filename or 'writing'}: {MENDABLE[cause.errno]}", 2
    for cause in chain(error):
        blamed = _users_code(cause) or _plugin(cause)
        if blamed:
            return f"error: {blamed} (--debug shows the traceback)", 2
    for cause in chain(error):
        advice = next((text for kind, text in LIMITS.items() if isinstance(cause, kind)), "")
        if advice:
            return f"error: {advice} ({type(cause).__name__}: {one_line(cause)[:200]})", 2
    return (
        f"internal error: {type(error).__name__}: {one_line(error)} (run with ARCH_LAB_DEBUG=1 for the "
        "traceback)",
        1,
    )


def _users_code(error: BaseException) -> str:
    """File, line and message when code of the user's own raised; '' else."""
    # looked up, not imported: code of the user's runs only where `blocks`, and so torch, is loaded
    user_code = sys.modules.get("blocks.user_code")
    return user_code.describe(error) if user_code is not None and user_code.place(error) else ""


def _plugin(error: BaseException) -> str:
    """A callback or logger of Lightning's that the user chose and that cannot work, by name; '' else."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = Path(frame.f_code.co_filename)
        if file.parent.name in PLUGINS and "lightning" in file.as_posix():
            owner = type(frame.f_locals["self"]).__name__ if "self" in frame.f_locals else file.stem
            return f"{PLUGINS[file.parent.name]} {owner}: {one_line(error)}"
        if file.is_relative_to(Path(__file__).parents[1]):
            return ""
    return ""


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, then the exceptions that it was raised from or during."""
    visited: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in visited:
        visited.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _is_user_error(error: BaseException) -> bool:
    # looked up, not imported: `blocks` imports torch, and what was never imported cannot have raised
    errors = sys.modules.get("blocks.errors")
    return errors is not None and isinstance(error, errors.UserError)
