"""Errors a user can cause: one line that says what, where and what to do.

The command line prints the message and exits with ``exit_code``; a traceback for any of these is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or a refused operation. The message is one line, complete without a traceback."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration that names something unknown or asks for something impossible."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The tail of an error message: the nearest valid name, or all of them when none is near."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; valid: {', '.join(known)}" if known else ""
