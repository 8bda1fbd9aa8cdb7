"""The block library: sequence mixers, channel mixers, linear maps and heads behind one contract.

It needs torch and einops alone: no Lightning, no GPU, no compiler. A name loads the module that defines it
and no other (see ``blocks.index``); modules without torch (``blocks.errors``, ``blocks.config``) load without
it, because a command line must answer a typing error at once.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from blocks.index import PUBLIC

__all__ = sorted(PUBLIC)


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(importlib.import_module(PUBLIC[name]), name)
    if not name.startswith("__") and importlib.util.find_spec(f"blocks.{name}"):
        return importlib.import_module(f"blocks.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
