"""Checkpoints of others: read, written back, refused when they ask for what our blocks do not compute.

One file per family; importing this package registers the built-in ones.
"""

from arch_lab.interop import gemma, t5gemma_config  # noqa: F401  registration
from arch_lab.interop.family import Blueprint, Family, Fields, InteropError, family_for, family_of, refuse_family, register_family

__all__ = ["Blueprint", "Family", "Fields", "InteropError", "family_for", "family_of", "refuse_family", "register_family"]
