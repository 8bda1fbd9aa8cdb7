"""Checkpoint formats of other projects: read, write, or refuse.

One file per family; importing this package registers the built-in ones.
"""

from arch_lab.checkpoints.interop import gemma, t5gemma  # noqa: F401  registration
from arch_lab.checkpoints.interop.family import (
    Family,
    Fields,
    family_for,
    family_of,
    refuse_family,
    register_family,
)

__all__ = ["Family", "Fields", "family_for", "family_of", "refuse_family", "register_family"]
