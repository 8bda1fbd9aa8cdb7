"""Lazy import of scikit-learn.

The peers and readouts of this experiment are its, and nothing else in arch-lab needs it.
"""

from __future__ import annotations

import importlib
from typing import Any

from blocks.errors import UserError


class MissingLibrary(UserError):
    """A library that an experiment needs and the machine has not."""


def library(name: str) -> Any:
    """The module. Raises: MissingLibrary saying what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise MissingLibrary(
            "experiment triplets needs scikit-learn for its baselines and readouts; "
            "install it (pip install 'arch-lab[tasks]')"
        ) from None
