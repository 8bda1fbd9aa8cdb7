"""What a stored result belongs to: the hash of everything that determines it, never its path alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest(content: Any) -> str:
    """Short hash of plain JSON content, key order immaterial."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def differences(a: Any, b: Any) -> list[str]:
    """Dotted keys at which two plain contents differ."""
    one, two = ({key: digest(value) for key, value in flatten(side)} for side in (a, b))
    return sorted(key for key in {*one, *two} if one.get(key) != two.get(key))


def flatten(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as ('outer.inner', value) pairs."""
    pairs: list[tuple[str, Any]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs
