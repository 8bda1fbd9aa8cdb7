"""The implementation that runs and the reason for it.

The logger ``blocks.dispatch`` states each distinct decision once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

log = logging.getLogger("blocks.dispatch")


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
