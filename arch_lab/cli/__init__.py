"""The command line: a table of verbs, and one place where every failure becomes one line.

Importing this module, and answering any ``--help``, imports neither torch nor lightning: both take seconds,
and a person who asks what a command does should not wait for them. Each verb module is imported when its verb
is called.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

from arch_lab.cli.failures import explain, one_line
from arch_lab.cli.verbs import VERBS, UsageError, nearest
from arch_lab.signals import terminable

EXIT_CODES = {
    0: "done",
    1: "a law is violated (certify), or a bug in arch-lab",
    2: "an input, option or setting to correct; the line on standard error says which",
    130: "interrupted (Ctrl-C)",
    141: "the reader of a pipe stopped early",
    143: "terminated (SIGTERM)",
}
USAGE = "usage: arch-lab VERB [options]   (arch-lab VERB --help explains one)"
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see ``EXIT_CODES``).

    Never exits the process; leaves no global state behind.
    """
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
            number = (
                interrupt.args[0] if interrupt.args and isinstance(interrupt.args[0], int) else signal.SIGINT
            )
            word = "terminated" if number == signal.SIGTERM else "interrupted"
            print(
                word + ("; the same command continues where it stopped" if _goes_on(arguments) else ""),
                file=sys.stderr,
            )
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
    """Restore what a verb may set for its own run.

    Import path, arguments, environment, signal handlers, torch's threads.
    """
    path, arguments, environment = list(sys.path), list(sys.argv), dict(os.environ)
    numbers = [
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
    ]
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
    """Find the verb and hand it the rest.

    Raises: UsageError for an unknown verb, whatever the verb raises.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else 2
    verb, verb_arguments = arguments[0], arguments[1:]
    if verb in ("--version", "-V", "version"):
        from arch_lab.version import describe

        print(f"arch-lab {describe()}")
        return 0
    if verb not in VERBS:
        kind = "option" if verb.startswith("-") else "command"
        raise UsageError(
            f"unknown {kind} {verb!r}{nearest(OTHER_NAMES.get(verb, verb), VERBS)} (arch-lab --help shows "
            "all)"
        )
    module = importlib.import_module(f"arch_lab.cli.{VERBS[verb].module}")
    return int(module.main(verb, verb_arguments) or 0)


def overview() -> str:
    lines = ["Sequence architectures compared at equal parameters and equal training FLOPs.", "", USAGE, ""]
    lines += [f"  {name:<11}{verb.help}" for name, verb in VERBS.items()]
    lines += [
        "",
        "  --version  print the version and the commit",
        "  --debug    show the traceback of a failure",
    ]
    lines += ["", "exit codes:", *(f"  {code:<11}{meaning}" for code, meaning in EXIT_CODES.items())]
    return "\n".join(
        [*lines, "", "All verbs with examples: docs/commands.md. Tab completion: arch-lab completion --help"]
    )


if __name__ == "__main__":
    sys.exit(main())
