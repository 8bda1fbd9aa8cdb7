"""The block library: sequence mixers, channel mixers, linear maps and heads behind one contract.

Taking a name from it registers every built-in block. It needs torch and einops alone: no Lightning, no GPU, no compiler.
Modules without torch (``blocks.errors``, ``blocks.config``) load without it: a command line must answer a typing error at once.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blocks.library import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec(f"blocks.{name}"):
        return importlib.import_module(f"blocks.{name}")
    return getattr(importlib.import_module("blocks.library"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module("blocks.library").__all__})
