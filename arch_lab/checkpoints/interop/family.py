"""A family of foreign checkpoints: translation of config.json and tensor names.

One file per family registers one. A family that this package does not know cannot be guessed: two codes that
share a name differ by a norm, a window or a cap. So every field of a config.json is either translated, or has
to hold the one value our blocks compute, or stands in an explicit list of what changes no output; anything
else is an error that names it.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from arch_lab.checkpoints.blueprint import LARGEST
from arch_lab.checkpoints.checkpoint import Blueprint, CheckpointError
from arch_lab.models import recipe
from arch_lab.stored import Json
from blocks.errors import shown

# ids that begin, end and pad a text, and what transformers takes for them in a configuration of Gemma that
# says nothing
TOKENS: Json = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}


class Family(ABC):
    """One ``model_type`` of Hugging Face and its architecture in arch-lab."""

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    writes: ClassVar[bool] = True  # False: another family writes this architecture

    @abstractmethod
    def read_config(self, fields: Fields) -> Blueprint:
        """Translates config.json; takes every field it knows, the caller refuses the rest.

        Raises: CheckpointError.
        """

    @abstractmethod
    def write_config(self, blueprint: Blueprint) -> Json:
        """The fields of config.json that the function depends on.

        Raises: CheckpointError for what the format cannot say.
        """

    @abstractmethod
    def their_name(self, name: str) -> str:
        """The name their checkpoint gives one of our parameters."""

    def read_tokens(self, fields: Fields) -> Json:
        """The ids that begin, end and pad a text, by field name."""
        return {name: read_ids(fields, name, fields.take(name, default)) for name, default in TOKENS.items()}

    def write_tokens(self, config: Json, tokens: Mapping[str, Any]) -> None:
        """Puts the ids where ``read_tokens`` and transformers look for them."""
        config.update(tokens)

    def skeleton(self, blueprint: Blueprint) -> dict[str, tuple[int, ...]]:
        """Name and shape of each of our parameters, without memory."""
        model_recipe = recipe(blueprint.architecture, blueprint.options)
        config = model_recipe.config(
            blueprint.shape, vocabulary=blueprint.vocabulary, max_tokens=blueprint.max_tokens
        )
        return {name: tuple(value.shape) for name, value in config.build("meta").state_dict().items()}

    def redundant(self, name: str) -> str | None:
        """The parameter that a stored tensor must repeat.

        None for a tensor that repeats no parameter.
        """
        return None

    def text_name(self, stored: str) -> str | None:
        """The name of a stored tensor in a text-only checkpoint.

        None: it belongs to a part that is not converted.
        """
        return stored

    def frequencies(self, name: str, blueprint: Blueprint) -> Tensor | None:
        """The expected value (C/2) of a buffer of rotary frequencies.

        Older files hold such buffers. None for other names.
        """
        return None

    def layers(self, blueprint: Blueprint) -> int:
        """Layers of all stacks; each holds several tensors."""
        return blueprint.shape.depth


_families: dict[str, Family] = {}
_refused: dict[str, str] = {}


def register_family(family: Family) -> None:
    _families[family.model_type] = family


def refuse_family(model_type: str, reason: str) -> None:
    """Register a model type that cannot be translated, with the reason.

    An architecture of that name cannot be written either.
    """
    _refused[model_type] = reason


def family_of(model_type: Any, origin: str) -> Family:
    """Raises: CheckpointError with the reason, or with the model types there are."""
    if isinstance(model_type, str) and model_type in _refused:
        raise CheckpointError(f"{origin}: model_type {model_type!r} is not supported: {_refused[model_type]}")
    if not isinstance(model_type, str) or model_type not in _families:
        # no nearest name: gemma4_text is not a misspelt gemma3_text
        raise CheckpointError(
            f"{origin}: model_type {shown(model_type)} is not supported; "
            f"those that are: {', '.join(sorted(_families))}"
        )
    return _families[model_type]


def family_for(architecture: str) -> Family:
    """The family whose format can hold an architecture of ours. Raises: CheckpointError."""
    for family in _families.values():
        if family.architecture == architecture and family.writes:
            return family
    if architecture in _refused:
        raise CheckpointError(
            f"architecture {architecture!r} has no Hugging Face form here: {_refused[architecture]}"
        )
    known_architectures = ", ".join(sorted({f.architecture for f in _families.values()}))
    raise CheckpointError(
        f"architecture {architecture!r} has no Hugging Face form; those that do: {known_architectures}"
    )


class Fields:
    """A config.json being read, or an object in it.

    It knows which fields were taken; its errors name field and value.
    """

    def __init__(self, content: Mapping[str, Any], origin: str, prefix: str = "") -> None:
        self.content, self.origin, self.prefix = dict(content), origin, prefix
        self.parts: list[Fields] = []

    def nested(self, name: str) -> Fields:
        """The fields of a configuration inside this one, which ``finish`` checks too.

        Raises: CheckpointError when there is none.
        """
        value = self.content.pop(name, None)
        if value is None:
            raise CheckpointError(f"{self.origin}: {self.prefix}{name} is missing")
        if not isinstance(value, dict):
            raise self.refuse(name, value, "expected an object with the fields of one stack")
        self.parts.append(Fields(value, self.origin, f"{self.prefix}{name}."))
        return self.parts[-1]

    def take(self, name: str, default: Any = None) -> Any:
        return self.content.pop(name, default)

    def integer(self, name: str, default: int | None = None, *, maximum: int = LARGEST) -> int:
        """A whole number from 1 to ``maximum``.

        Raises: CheckpointError for any other value.
        """
        value = self.content.pop(name, default)
        if value is None:
            raise CheckpointError(f"{self.origin}: {self.prefix}{name} is missing")
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 1 <= value <= maximum
            or value != int(value)
        ):
            raise self.refuse(name, value, f"expected a whole number from 1 to {maximum:,}")
        return int(value)

    def mapping(self, name: str) -> Json:
        """A copy of an object in the configuration, {} for none.

        Raises: CheckpointError for anything else.
        """
        value = self.content.pop(name, None)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.refuse(name, value, "expected an object")
        return dict(value)

    def number(self, name: str, default: float) -> float:
        return positive(self, name, self.content.pop(name, default))

    def only(self, name: str, allowed: Iterable[Any], reason: str) -> None:
        """Accept a field that is missing or one of ``allowed``.

        Raises: CheckpointError with the reason.
        """
        if name in self.content and not any(same(self.content[name], value) for value in allowed):
            raise self.refuse(name, self.content[name], reason)
        self.content.pop(name, None)

    def refuse(self, name: str, value: Any, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.origin}: {self.prefix}{name} = {shown(value)} is not supported: {reason}"
        )

    def finish(self, ignored: Iterable[str], defaults: Mapping[str, Any]) -> None:
        """Nothing may be left but ``ignored`` fields and those at their ``defaults``.

        Raises: CheckpointError naming the first.
        """
        known_fields = set(ignored)
        for name, value in self.content.items():
            if name not in known_fields and not (name in defaults and same(value, defaults[name])):
                raise self.refuse(
                    name,
                    value,
                    "arch-lab does not know whether this field changes the model; remove it if it does not",
                )
        for inner in self.parts:
            inner.finish(ignored, defaults)


def read_ids(fields: Fields, name: str, value: Any) -> Any:
    """Raises: CheckpointError unless ``value`` is an id, several, or none."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token_id) is int and 0 <= token_id <= LARGEST for token_id in ids):
        raise fields.refuse(name, value, "expected a token id, a list of ids or null")
    return value


def positive(fields: Fields, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise fields.refuse(name, value, "expected a positive number")
    return float(value)


def same(a: Any, b: Any) -> bool:
    """Equal as JSON: false is not 0."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)
