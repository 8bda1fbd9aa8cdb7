"""Strict readers of YAML and JSON that a user wrote.

A document whose reading would be ambiguous or endless is refused quickly.

A YAML document is looked at twice. The first pass runs over the events of the parser and builds nothing: it
counts depth, values with every alias written out, and remembers keys. Only a document that passed is built.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from arch_lab.stored import Json
from blocks.errors import ConfigError, UserError, shown

DEEPEST = 50
MOST_BYTES = 2**20  # a study has a few kilobytes
MOST_VALUES = 100_000  # with aliases written out: a bomb of 300 bytes stands for billions
MOST_ALIASES = 100
LONGEST_NUMBER = 100  # characters
JSON_MOST_BYTES = 2**28
JSON_DEEPEST = 100
NUMBER = re.compile(r"[-+]?[0-9][0-9a-fA-FxXob_:.]*")
MISREAD = (  # plain values that YAML 1.1 takes for another than they look like
    (
        re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"),
        "a number in base 60; write the number, or quotes around text",
    ),
    (re.compile(r"[-+]?0[0-7_]+"), "an octal number; write it without the leading 0, or quotes around text"),
    (
        re.compile(r"yes|no|on|off", re.IGNORECASE),
        "a truth value; write true or false, or quotes around text",
    ),
)
TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq", "merge")
}

# libyaml, ten times as fast, where the wheel has it
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(path: str | Path, *, most_bytes: int = MOST_BYTES) -> Any:
    """The content of a YAML file.

    Raises: ConfigError, one line with file, line and column.
    """
    return parse_yaml(read_text(path, most_bytes), origin=str(path), most_bytes=most_bytes)


def parse_yaml(text: str, *, origin: str, most_bytes: int = MOST_BYTES) -> Any:
    """The content of a YAML text; ``where`` begins every error.

    Raises: ConfigError for broken YAML, a key that appears twice in one mapping, a tag, an alias inside what
    it names, and documents that are too large, too deep or too many values once aliases are written out.
    """
    if len(text) > most_bytes:
        raise ConfigError(f"{origin}: larger than {most_bytes:,} bytes")
    try:
        _Census(origin).take(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {_position(error, text)}{_problem(error)}") from None
    # of a scalar that its tag or its form misdescribes
    except (ValueError, AttributeError, TypeError, OverflowError) as error:
        raise ConfigError(f"{origin}: a value cannot be read ({error})") from None


def load_json(
    path: str | Path, *, most_bytes: int = JSON_MOST_BYTES, error: type[UserError] = ConfigError
) -> Any:
    """The content of a JSON file.

    Raises: ``error``, one line that begins with the path.
    """
    return parse_json(read_text(path, most_bytes, error=error), origin=str(path), error=error)


def parse_json(text: str, *, origin: str, error: type[UserError] = ConfigError) -> Any:
    """The content of a JSON text; ``where`` begins every error.

    Raises: ``error`` for broken JSON, NaN and infinities, a key that appears twice in one object, numbers of
    too many digits and values nested too deeply.
    """
    try:
        value = json.loads(
            text, parse_int=_integer, parse_constant=_refuse_constant, object_pairs_hook=_object
        )
    except json.JSONDecodeError as problem:
        raise error(f"{origin}: line {problem.lineno}, column {problem.colno}: {problem.msg}") from None
    except RecursionError:
        raise error(f"{origin}: nested too deeply, more than {JSON_DEEPEST} levels") from None
    except ValueError as problem:
        raise error(f"{origin}: {problem}") from None
    if _deeper(value, JSON_DEEPEST):
        raise error(f"{origin}: nested too deeply, more than {JSON_DEEPEST} levels")
    return value


def read_text(path: str | Path, most_bytes: int, *, error: type[UserError] = ConfigError) -> str:
    """Text of a file in UTF-8.

    Raises: ``error`` when it cannot be read, or is larger than ``most_bytes``.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise error(f"{path}: larger than {most_bytes:,} bytes")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not UTF-8 at byte {problem.start}") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror})") from None
    except ValueError as problem:  # a NUL in the name
        raise error(f"{shown(str(path))}: cannot be read ({problem})") from None


@dataclass
class _Open:
    """A mapping or list whose end the parser has not reached."""

    anchor: str | None
    values: int = 1
    keys: Json | None = None  # of a mapping: text of a key -> where it stands
    key_next: bool = True


@dataclass
class _Census:
    """The first pass. Raises: ConfigError at the first thing that is refused."""

    origin: str
    # anchor -> values it stands for; None: not finished
    sizes: dict[str, int | None] = field(default_factory=dict)
    path: list[_Open] = field(default_factory=list)
    aliases: int = 0
    documents: int = 0

    def take(self, text: str) -> None:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._begin(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                self.documents += 1
                if self.documents > 1:
                    self._refuse(event, "a second document begins here; a file holds one")

    def _scalar(self, event: Any) -> None:
        self._check_tag(event)
        self._key(event, event.value)
        if not event.style and len(event.value) > LONGEST_NUMBER and NUMBER.fullmatch(event.value):
            self._refuse(event, f"a number of {len(event.value):,} characters")
        self._check_misread(event)
        self._add(event, 1)
        if event.anchor:
            self.sizes[event.anchor] = 1

    def _check_misread(self, event: Any) -> None:
        for pattern, reading in MISREAD:
            if event.implicit[0] and pattern.fullmatch(event.value):
                self._refuse(event, f"{event.value} would be read as {reading}")

    def _begin(self, event: Any) -> None:
        self._check_tag(event)
        self._key(event, None)
        if len(self.path) == DEEPEST:
            self._refuse(event, f"nested deeper than {DEEPEST} levels")
        self.path.append(_Open(event.anchor, keys={} if isinstance(event, yaml.MappingStartEvent) else None))
        if event.anchor:
            self.sizes[event.anchor] = None

    def _end(self, event: Any) -> None:
        closed = self.path.pop()
        if closed.anchor:
            self.sizes[closed.anchor] = closed.values
        self._add(event, closed.values)

    def _alias(self, event: Any) -> None:
        self._key(event, None)
        self.aliases += 1
        if self.aliases > MOST_ALIASES:
            self._refuse(event, f"more than {MOST_ALIASES} aliases (*name); write the values out")
        size = self.sizes.get(event.anchor, 1)  # an anchor that does not exist is the loader's to name
        if size is None:
            self._refuse(event, f"the alias *{event.anchor} stands inside what it names")
        else:
            self._add(event, size)

    def _add(self, event: Any, values: int) -> None:
        if self.path:
            self.path[-1].values += values
        if sum(level.values for level in self.path) > MOST_VALUES:
            self._refuse(event, f"more than {MOST_VALUES:,} values (aliases written out)")

    def _key(self, event: Any, text: str | None) -> None:
        level = self.path[-1] if self.path else None
        if level is None or level.keys is None:
            return
        if level.key_next:
            if text is None:
                self._refuse(event, "a key must be text, not a list, a mapping or an alias")
            elif text in level.keys and text != "<<":
                first = level.keys[text].start_mark
                self._refuse(
                    event,
                    f"the key {shown(text)} appears twice, first in line {first.line + 1}, "
                    f"column {first.column + 1}",
                )
            level.keys[str(text)] = event
        level.key_next = not level.key_next

    def _check_tag(self, event: Any) -> None:
        if event.tag is not None and event.tag not in TAGS and event.tag != "!":
            self._refuse(
                event,
                f"the tag {shown(event.tag)} is not allowed; values are text, numbers, lists and mappings",
            )

    def _refuse(self, event: Any, problem: str) -> None:
        mark = event.start_mark
        raise ConfigError(f"{self.origin}: line {mark.line + 1}, column {mark.column + 1}: {problem}")


def _position(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: "
    position = getattr(error, "position", None)
    if isinstance(position, int):
        preceding = text[:position]
        return f"line {preceding.count(chr(10)) + 1}, column {position - preceding.rfind(chr(10))}: "
    return ""


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or "not valid YAML")


def _integer(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> Json:
    content = dict(pairs)
    if len(content) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(name)} appears twice in one object")
    return content


def _deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels + 1):
        layer = [child for node in layer for child in _containers(node)]
        if not layer:
            return False
    return True


def _containers(node: Any) -> Iterator[Any]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return (child for child in children if isinstance(child, (dict, list)))
