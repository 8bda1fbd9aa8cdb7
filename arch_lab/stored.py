"""Records that are written to JSON files and read back: frozen dataclasses of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

from blocks.config import Config

S = TypeVar("S", bound="Stored")
Json = dict[str, Any]  # content of a JSON object
VERSION = 3  # of plan.json and study.json
Facts = dict[str, Any]  # plain values that only the experiment which wrote them understands


@dataclass(frozen=True, kw_only=True)
class Stored(Config):
    """Base of every stored record. ``from_json(record.to_json())`` equals the record."""

    def to_json(self) -> Json:
        """Plain values that JSON can hold."""
        return {field.name: to_plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls: type[S], content: Json, *, where: str = "") -> S:
        """The record that ``to_json`` gave. Raises: ConfigError for an unknown or missing key, or a wrong type."""
        return cls.from_options(content, where=where)


@dataclass(frozen=True)
class Lenient:
    """Base of records of a few keys of a JSON object, all with defaults."""

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """A key that is missing or of another type keeps its default; other keys are passed over."""
        defaults = vars(cls())
        fitting = {k: content[k] for k, v in defaults.items() if isinstance(content.get(k), type(v))}
        return cls(**fitting)


def to_plain(value: Any) -> Any:
    """Stored records as mappings, tuples as lists; other values as they are."""
    if isinstance(value, Stored):
        return value.to_json()
    if isinstance(value, dict):
        return {key: to_plain(inner) for key, inner in value.items()}
    return [to_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def flatten(data: Facts, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as ('outer.inner', value) pairs."""
    pairs: list[tuple[str, Any]] = []
    for key, value in data.items():
        pairs += flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs
