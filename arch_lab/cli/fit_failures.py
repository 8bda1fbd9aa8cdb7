"""Errors of Lightning and jsonargparse as one line with the cause first."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from arch_lab.cli.failures import PLUGINS, chain
from arch_lab.cli.verbs import UsageError, nearest
from blocks import user_code
from blocks.errors import UserError

RESTORING = "checkpoint_connector.py"  # of Lightning
# jsonargparse, about a value of several possible types
UNION = "Does not validate against any of the Union subtypes"


def explained(error: Exception) -> UsageError | None:
    """``error`` as a line about a setting; None where the command line already has one, or where the fault is
    ours.
    """
    causes = list(chain(error))
    if any(isinstance(cause, (UsageError, UserError, OSError)) or user_code.place(cause) for cause in causes):
        return None
    failures = [failure for cause in causes for failure in union_failures(cause)]
    users = next((failure for failure in failures if user_code.place(failure)), None)
    if users is not None:
        return UsageError(f"{user_code.describe(users)} (--debug shows the traceback)")
    frames = traceback.extract_tb(error.__traceback__)
    raised_in = Path(frames[-1].filename) if frames else Path()
    if isinstance(error, (KeyError, TypeError)) and any(
        Path(frame.filename).name == RESTORING for frame in frames
    ):
        return UsageError(
            f"--ckpt_path: the file lacks what Lightning saves, or is damaged ({one_line(repr(error))}); "
            "use another one"
        )
    by_lightning = (
        "lightning" in raised_in.parts and raised_in.parent.name not in PLUGINS
    )  # a plug-in is named with its class
    return (
        UsageError(one_line(innermost(str(error) or repr(error))))
        if UNION in str(error) or by_lightning
        else None
    )


def union_failures(error: BaseException) -> Iterator[BaseException]:
    """What each of several possible types raised for a value; jsonargparse chains the first of them only."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "raise_union_unexpected_value":
            for failure in frame.f_locals.get("exceptions", []):
                yield failure
                yield from union_failures(failure)


def one_line(text: str) -> str:
    return " ".join(text.split())


def innermost(message: str) -> str:
    """jsonargparse's message about a union, cut to the most specific reason."""
    head, union, tail = message.partition(UNION)
    if not union:
        return message
    key = re.match(r'Parser key "([\w.]+)":', head)
    value = tail.rpartition("Given value:")[2].strip()
    listed = tail.partition("Errors:")[2].partition("Given value type:")[0]
    reasons = [one_line(reason) for reason in re.split(r"\n\s*- ", listed) if reason.strip()]
    telling = [reason for reason in reasons if not reason.startswith(("Expected a", "Not a valid subclass"))]
    if telling:
        text = re.sub(r"^Problem with given class_path '([\w.]+)': ", r"\1: ", telling[0])
    else:
        choices = re.findall(r"'([\w.-]+)'", " ".join(reason for reason in reasons if "Literal" in reason))
        expected = f" (valid: {', '.join(choices)}){nearest(value, choices)}" if choices else ""
        text = f"{value!r} is not valid here{expected}"
    owner = re.search(
        r"class_path='[\w.]*?(\w+)'", value
    )  # a class that failed in its __init__ comes without its key
    return f'Parser key "{key[1]}": {text}' if key else f"{owner[1]}: {text}" if owner and telling else text
