"""The command line: a table of verbs, and one place where every failure becomes one line.

Importing this module, and answering any ``--help``, imports neither torch nor lightning: both take seconds, and a
person who asks what a command does should not wait for them. Each verb module is imported when its verb is called.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from arch_lab.signals import terminable
from arch_lab.verbs import VERBS, UsageError, nearest

EXIT_CODES = {
    0: "done",
    1: "a law is broken (certify), or a mistake of ours",
    2: "an input, option or setting to correct; the line on standard error says which",
    130: "interrupted (Ctrl-C)",
    141: "the reader of a pipe stopped early",
    143: "terminated (SIGTERM)",
}
USAGE = "usage: arch-lab VERB [options]   (arch-lab VERB --help explains one)"
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
# of other command lines
OTHER_NAMES = {
    "status": "list",
    "ls": "list",
    "runs": "list",
    "diff": "show",
    "new": "init",
    "run": "compare",
    "train": "fit",
    "eval": "score",
}
PLUGINS = {"callbacks": "callback", "loggers": "logger"}  # folders of Lightning


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see ``EXIT_CODES``). Never exits the process; leaves no global state behind."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("ARCH_LAB_DEBUG", "") not in ("", "0")
    arguments = [a for a in arguments if a != "--debug"]
    with unchanged_globals():
        try:
            with terminable() if _goes_on(arguments) else nullcontext():
                code = dispatch(arguments)
            sys.stdout.flush()  # a closed pipe shows here, not in the interpreter's shutdown
            return code
        except BrokenPipeError:
            _forget_output()
            return 128 + signal.SIGPIPE
        except KeyboardInterrupt as interrupt:
            # with the number of the signal, see arch_lab.signals
            number = interrupt.args[0] if interrupt.args and isinstance(interrupt.args[0], int) else signal.SIGINT
            word = "terminated" if number == signal.SIGTERM else "interrupted"
            print(word + ("; the same command goes on where it stopped" if _goes_on(arguments) else ""), file=sys.stderr)
            return 128 + number
        except SystemExit as stop:
            return _exit_code(stop)
        except BaseException as error:  # a panic of a Rust library is no Exception
            if debug:
                traceback.print_exc()
            message, code = explain(error)
            print(message, file=sys.stderr)
            return code


def _goes_on(arguments: list[str]) -> bool:
    """Whether the same command goes on where a signal stopped it."""
    return arguments[:1] == ["compare"] or arguments[:2] == ["bench", "throughput"]


@contextmanager
def unchanged_globals() -> Iterator[None]:
    """Restore what a verb may set for its own run: import path, arguments, environment, signal handlers, torch's threads."""
    path, arguments, environment = list(sys.path), list(sys.argv), dict(os.environ)
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
    handlers = {number: signal.getsignal(number) for number in numbers}
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        sys.path[:], sys.argv[:] = path, arguments
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)
        if torch and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _forget_output() -> None:
    """The reader (head, less) has what it wanted; what is left in the buffer must not raise again at exit."""
    with suppress(OSError, ValueError):  # no file, as in a notebook: nothing is written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_code(stop: SystemExit) -> int:
    """What a library's ``sys.exit`` meant: nothing, a number, or a message."""
    if stop.code is None or isinstance(stop.code, int):
        return int(stop.code or 0)
    print(f"error: {one_line(stop)}", file=sys.stderr)
    return 2


def dispatch(arguments: list[str]) -> int:
    """Find the verb and hand it the rest. Raises: UsageError for an unknown verb, whatever the verb raises."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else 2
    verb, rest = arguments[0], arguments[1:]
    if verb in ("--version", "-V", "version"):
        from arch_lab.version import describe

        print(f"arch-lab {describe()}")
        return 0
    if verb not in VERBS:
        what = "option" if verb.startswith("-") else "command"
        raise UsageError(f"unknown {what} {verb!r}{nearest(OTHER_NAMES.get(verb, verb), VERBS)} (arch-lab --help shows all)")
    module = importlib.import_module(f"arch_lab.verbs.{VERBS[verb].module}")
    return int(module.main(verb, rest) or 0)


def overview() -> str:
    lines = ["Sequence architectures compared at equal parameters and equal training FLOPs.", "", USAGE, ""]
    lines += [f"  {name:<11}{verb.help}" for name, verb in VERBS.items()]
    lines += ["", "  --version  print the version and the commit", "  --debug    show the traceback of a failure"]
    lines += ["", "exit codes:", *(f"  {code:<11}{meaning}" for code, meaning in EXIT_CODES.items())]
    return "\n".join([*lines, "", "All verbs with examples: docs/commands.md. Tab completion: arch-lab completion --help"])


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
    return f"internal error: {type(error).__name__}: {one_line(error)} (run with ARCH_LAB_DEBUG=1 for the traceback)", 1


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
        if file.is_relative_to(Path(__file__).parent):
            return ""
    return ""


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, then what it was raised from or during: libraries like to wrap an error in one of their own."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _is_user_error(error: BaseException) -> bool:
    # looked up, not imported: `blocks` imports torch, and what was never imported cannot have raised
    errors = sys.modules.get("blocks.errors")
    return errors is not None and isinstance(error, errors.UserError)


if __name__ == "__main__":
    sys.exit(main())
