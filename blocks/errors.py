"""Errors that a user can cause: one line with the cause and the remedy.

The command line prints the message and exits with ``exit_code``; a traceback for any of these is a bug.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or a refused operation. The message is one line, complete without a traceback."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration that names something unknown or asks for something impossible."""


class UnknownOption(ConfigError):
    """An option that a configuration does not have. ``where``: the configuration, as the message names it."""

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.where = where


def did_you_mean(name: object, choices: Iterable[object]) -> str:
    """The tail of an error message: the nearest valid name, or all of them when none is near."""
    names = sorted(map(str, choices))
    matches = difflib.get_close_matches(name[:200], names, n=1, cutoff=0.5) if isinstance(name, str) else []
    if matches:
        return f"; did you mean {matches[0]!r}?"
    return f"; valid: {', '.join(names)}" if names else ""


def shown(value: object) -> str:
    """``value`` for an error message: its repr, shortened."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length():,} bits"  # Python refuses to print thousands of digits
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to print"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict = 3, 8, 8, 6
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 100
