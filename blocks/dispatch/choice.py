"""The implementation that runs and the reason for it.

The logger ``blocks.dispatch`` states each distinct decision once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

log = logging.getLogger("blocks.dispatch")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An implementation and the reason for it, one clause.

    ``requested``: by name, so nothing else may run.
    """

    implementation: str
    reason: str
    requested: bool = False

    @property
    def token(self) -> str:
        """The choice as an argument of an operator: a compiled graph and the backward pass keep to it."""
        return self.implementation + ("!" if self.requested else "")


_logged: set[tuple[str, str, str]] = set()


def log_once(operation: str, choice: Choice) -> None:
    """Log a decision at level INFO the first time. Silent while a compiler traces, which logging would
    interrupt.
    """
    if torch.compiler.is_compiling():
        return
    decision = (operation, choice.implementation, choice.reason)
    if decision not in _logged:
        _logged.add(decision)
        log.info("%s runs %s: %s", *decision)


def compile_time_constant(function: F) -> F:
    """Let torch.compile call ``function`` once and take its result as a constant.

    Does what torch.compiler.assume_constant_result does, which imports torch._dynamo: seconds, for every program.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
