"""The command line: a table of verbs, and one place where every failure becomes one line.

Importing this module, and answering any ``--help``, imports neither torch nor lightning: both take seconds, and a
person who asks what a command does should not wait for them. Each verb module is imported when its verb is called.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence

from arch_lab import __version__
from arch_lab.verbs import VERBS, UsageError, nearest

USAGE = "usage: arch-lab VERB [options]   (arch-lab VERB --help explains one)"
# what a person can mend without reading code, and how
MENDABLE = {
    errno.ENOSPC: "no space left on the device; free some, or write elsewhere with --output",
    errno.EDQUOT: "disk quota exceeded; free some space, or write elsewhere with --output",
    errno.EROFS: "the file system is read-only; write elsewhere with --output",
    errno.EACCES: "permission denied; check who owns it, or choose another folder",
    errno.EPERM: "operation not permitted; check who owns it, or choose another folder",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 the user can mend it, 130 interrupted, 1 a fault of ours."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("ARCH_LAB_DEBUG", "") not in ("", "0")
    arguments = [a for a in arguments if a != "--debug"]
    try:
        code = dispatch(arguments)
        sys.stdout.flush()  # a closed pipe shows here, not in the interpreter's shutdown
        return code
    except BrokenPipeError:
        # the reader (head, less) has what it wanted; what is left in the buffer must not raise again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        resumable = arguments[:1] == ["compare"] or arguments[:2] == ["bench", "throughput"]
        print("interrupted" + ("; the same command goes on where it stopped" if resumable else ""), file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = explain(error)
        print(message, file=sys.stderr)
        return code


def dispatch(arguments: list[str]) -> int:
    """Find the verb and hand it the rest. Raises: UsageError for an unknown verb, whatever the verb raises."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else 2
    verb, rest = arguments[0], arguments[1:]
    if verb in ("--version", "-V", "version"):
        print(f"arch-lab {__version__}")
        return 0
    if verb not in VERBS:
        what = "option" if verb.startswith("-") else "command"
        raise UsageError(f"unknown {what} {verb!r}{nearest(verb, VERBS)} (arch-lab --help shows all)")
    module = importlib.import_module(f"arch_lab.verbs.{VERBS[verb].module}")
    return int(module.main(verb, rest) or 0)


def overview() -> str:
    lines = ["Sequence architectures compared at equal parameters and equal training FLOPs.", "", USAGE, ""]
    lines += [f"  {name:<10}{verb.help}" for name, verb in VERBS.items()]
    return "\n".join([*lines, "", "  --version  print the version", "  --debug    show the traceback of a failure"])


def explain(error: Exception) -> tuple[str, int]:
    """The line to print for ``error`` and the exit code."""
    for cause in chain(error):
        if isinstance(cause, UsageError) or _is_user_error(cause):
            return f"error: {one_line(cause)}", int(getattr(cause, "exit_code", 2))
    for cause in chain(error):
        if isinstance(cause, OSError) and cause.errno in MENDABLE:
            return f"error: {cause.filename or 'writing'}: {MENDABLE[cause.errno]}", 2
    return f"internal error: {type(error).__name__}: {one_line(error)} (run with ARCH_LAB_DEBUG=1 for the traceback)", 1


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
