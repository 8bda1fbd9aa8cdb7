"""What a stored result belongs to: the hash of everything that determines it, never its path alone."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from arch_lab.stored import flatten


def digest(content: Any) -> str:
    """Short hash of plain JSON content, key order immaterial."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def differences(a: Any, b: Any) -> list[str]:
    """Dotted keys at which two plain contents differ."""
    one, two = ({key: digest(value) for key, value in flatten(side)} for side in (a, b))
    return sorted(key for key in {*one, *two} if one.get(key) != two.get(key))
