"""Configurations: frozen, keyword-only dataclasses whose fields state their own bounds and documentation.

    batch_size: Annotated[int, Bounds(minimum=1, maximum=2**20), Doc("Sequences per step.")] = 16

``from_options`` reads a mapping (YAML, JSON) strictly; construction in Python is held to the same bounds.
Rules stand in the annotation at the level they are about:
``Annotated[list[Annotated[float, Bounds(above=0)]], Length(1, 100), Unique()]``.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_origin, get_type_hints, runtime_checkable

from blocks.errors import ConfigError, UnknownOption, did_you_mean, shown

Options = dict[str, Any]  # options of a user, from YAML, JSON or Python: checked by ``from_options``
Hints = dict[str, Any]  # annotations by name of the field
C = TypeVar("C", bound="Config")
LARGEST = 2**63 - 1  # whole numbers fit 64 bits, as tensors and files hold them


@runtime_checkable
class Rule(Protocol):
    """A condition on one value.

    ``problem`` is None where it does not apply or holds; ``words`` is for the reference of keys.
    """

    def problem(self, value: Any) -> str | None: ...

    @property
    def words(self) -> str: ...


@dataclass(frozen=True)
class Bounds:
    """Range of a number: ``minimum`` and ``maximum`` belong to it, ``above`` and ``below`` do not.

    NaN and infinities never do.
    """

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if isinstance(value, float) and not math.isfinite(value):
            return "must be finite"
        for broken, words in self._sides(value):
            if broken:
                return f"must be {words}"
        return None

    def _sides(self, value: float) -> Iterator[tuple[bool, str]]:
        if self.minimum is not None:
            yield value < self.minimum, f"at least {number_text(self.minimum)}"
        if self.above is not None:
            yield value <= self.above, "positive" if self.above == 0 else f"above {number_text(self.above)}"
        if self.maximum is not None:
            yield value > self.maximum, f"at most {number_text(self.maximum)}"
        if self.below is not None:
            yield value >= self.below, f"below {number_text(self.below)}"

    @property
    def words(self) -> str:
        return ", ".join(words for _, words in self._sides(0))


@dataclass(frozen=True)
class Length:
    """How many characters a string, or entries a list or mapping may have."""

    minimum: int = 0
    maximum: int | None = None

    def problem(self, value: Any) -> str | None:
        if not isinstance(value, (str, list, tuple, dict)):
            return None
        unit = "characters" if isinstance(value, str) else "entries"
        if len(value) < self.minimum:
            return "must not be empty" if self.minimum == 1 else f"must have at least {self.minimum:,} {unit}"
        if self.maximum is not None and len(value) > self.maximum:
            return f"must have at most {self.maximum:,} {unit}, not {len(value):,}"
        return None

    @property
    def words(self) -> str:
        if self.maximum is None:
            return f"at least {self.minimum} long"
        return f"{self.minimum:,} to {self.maximum:,} long"


@dataclass(frozen=True)
class Pattern:
    """Regular expression that a whole string must match, and the same in words."""

    expression: str
    words: str

    def problem(self, value: Any) -> str | None:
        matches = not isinstance(value, str) or re.fullmatch(self.expression, value)
        return None if matches else f"must be {self.words}"


@dataclass(frozen=True)
class Unique:
    """A list without repetition."""

    words: str = "no duplicates"

    def problem(self, value: Any) -> str | None:
        if not isinstance(value, (list, tuple)):
            return None
        values: set[Any] = set()
        for entry in value:
            if entry in values:
                return f"must not repeat {shown(entry)}"
            values.add(entry)
        return None


@dataclass(frozen=True)
class Doc:
    """One sentence about a field, for the reference of keys."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of every configuration: made of plain values, so that it survives JSON.

    A subclass states bounds in its annotations and, in ``__post_init__``, what relates one field to another.
    The bounds are checked before ``__post_init__`` runs, whether or not it calls its base's.
    Raises: ConfigError, one line.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        post_init = cls.__dict__.get("__post_init__")
        if post_init is not None:
            cls.__post_init__ = _bounds_first(post_init)  # type: ignore[assignment,method-assign]

    def __post_init__(self) -> None:
        # else a subclass has checked before it called this
        if type(self).__post_init__ is Config.__post_init__:
            check_bounds(self)

    @classmethod
    def from_options(cls: type[C], options: Options, *, where: str = "") -> C:
        """Strict construction from a mapping (YAML, JSON).

        Raises: ConfigError for an unknown key (with the nearest valid name), a missing one, a wrong type or a
        value out of bounds.
        """
        where = where or cls.__name__
        declared = {f.name: f for f in fields(cls)}
        for key in options:
            if key not in declared:
                raise UnknownOption(
                    f"{where}: unknown option {shown(key)}{did_you_mean(key, declared)}", where
                )
        missing = [
            n
            for n, f in declared.items()
            if f.default is MISSING and f.default_factory is MISSING and n not in options
        ]
        if missing:
            raise ConfigError(f"{where}: option {missing[0]!r} is required")
        hints = field_hints(cls)
        return cls(**{key: coerce(value, hints[key], f"{where}.{key}") for key, value in options.items()})


def _bounds_first(post_init: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(post_init)
    def __post_init__(self: Any) -> None:
        if type(self).__post_init__ is __post_init__:  # once an instance, however many bases have one
            check_bounds(self)
        post_init(self)

    return __post_init__


def check_bounds(config: Config) -> None:
    """Raises: ConfigError when a field with rules does not hold them. Changes nothing; fields without rules
    are not looked at.
    """
    cls = type(config)
    for name, hint in _fields_of(cls).ruled.items():
        _walk(getattr(config, name), hint, (), f"{cls.__name__}.{name}", exact=True)


def field_hints(cls: type[Config]) -> Hints:
    """Annotation of every field, rules included; Any where a name in it does not exist at run time."""
    return _fields_of(cls).hints


@dataclass(frozen=True)
class _Fields:
    hints: Hints
    ruled: Hints  # the hints that hold a rule: all that construction in Python looks at


_cache: dict[type, _Fields] = {}


def _fields_of(cls: type[Config]) -> _Fields:
    if cls in _cache:
        return _cache[cls]
    names = [f.name for f in fields(cls) if f.init]
    try:
        hints, complete = get_type_hints(cls, include_extras=True), True
    # imported for type checking only, or defined further down: other fields keep their bounds
    except NameError:
        hints, complete = _hints_one_by_one(cls), False
    entry = _Fields(
        hints={n: hints.get(n, Any) for n in names},
        ruled={n: hints[n] for n in names if _has_rule(hints.get(n))},
    )
    if complete:
        _cache[cls] = entry
    return entry


def _hints_one_by_one(cls: type) -> Hints:
    hints: Hints = {}
    for base in reversed(cls.__mro__):
        scope = dict(vars(sys.modules[base.__module__]))
        for name, hint in inspect.get_annotations(base).items():
            try:
                hints[name] = eval(hint, scope) if isinstance(hint, str) else hint
            except NameError:
                hints[name] = Any
    return hints


def _has_rule(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        inner, *rules = get_args(hint)
        return any(isinstance(rule, Rule) for rule in rules) or _has_rule(inner)
    return any(_has_rule(inner) for inner in get_args(hint))


def coerce(value: Any, hint: Any, location: str) -> Any:
    """``value`` as the annotated type: ints for whole floats (YAML's ``1e6``), tuples for lists; else
    ConfigError.
    """
    return _walk(value, hint, (), location, exact=False)


def _walk(value: Any, hint: Any, rules: Sequence[Rule], location: str, *, exact: bool) -> Any:
    """``value`` converted to the type ``hint`` and checked against the rules.

    ``exact``: a Python caller's value, no text for a number.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _walk(
            value,
            arguments[0],
            [*rules, *(a for a in arguments[1:] if isinstance(a, Rule))],
            location,
            exact=exact,
        )
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(value, arguments, rules, location, exact=exact)
    if hint is int:
        return _hold(
            _integer(value, location, exact=exact), [*rules, Bounds(-LARGEST, LARGEST)], location, value
        )
    if hint is float:
        return _hold(_real(value, location, exact=exact), [*rules, Bounds()], location, value)
    return _hold(_plain(value, hint, origin, arguments, location, exact=exact), rules, location, value)


def _first_that_fits(
    value: Any, choices: Sequence[Any], rules: Sequence[Rule], location: str, *, exact: bool
) -> Any:
    if value is None and type(None) in choices:
        return None
    errors = []
    for choice in (c for c in choices if c is not type(None)):
        try:
            return _walk(value, choice, rules, location, exact=exact)
        except ConfigError as error:
            errors.append(error)
    # an error inside a list says more than that another choice expects no list
    raise next((error for error in errors if str(error).startswith(f"{location}[")), errors[-1])


def _plain(
    value: Any, hint: Any, origin: Any, arguments: Sequence[Any], location: str, *, exact: bool
) -> Any:
    if hint is Any:
        return value
    if origin is typing.Literal:
        if any(
            isinstance(value, type(choice))
            and value == choice
            and isinstance(value, bool) == isinstance(choice, bool)
            for choice in arguments
        ):
            return value
        raise ConfigError(
            f"{location}: {shown(value)} is not one of "
            f"{', '.join(map(repr, arguments))}{_nearest(value, arguments)}"
        )
    if origin in (tuple, list):
        if isinstance(value, (list, tuple)):
            inner = arguments[0] if arguments else Any
            return origin(_walk(v, inner, (), f"{location}[{i}]", exact=exact) for i, v in enumerate(value))
        raise ConfigError(f"{location}: expected a list, got {shown(value)}")
    if origin is dict or hint is dict:
        return _mapping(value, arguments, location, exact=exact)
    if is_dataclass(hint) and isinstance(hint, type) and issubclass(hint, Config) and isinstance(value, dict):
        return hint.from_options(value, where=location)
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise ConfigError(f"{location}: expected {_kind(hint)}, got {shown(value)}")


def _mapping(value: Any, arguments: Sequence[Any], location: str, *, exact: bool) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{location}: expected a mapping, got {shown(value)}")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"{location}: expected text as key, got {shown(key)}")
    inner = arguments[1] if len(arguments) == 2 else Any
    return {key: _walk(v, inner, (), f"{location}.{key}", exact=exact) for key, v in value.items()}


def _hold(value: Any, rules: Sequence[Rule], location: str, original: Any) -> Any:
    for rule in rules:
        problem = rule.problem(value)
        if problem is not None:
            raise ConfigError(f"{location}: {problem}, got {shown(original)}")
    return value


def _integer(value: Any, location: str, *, exact: bool) -> int:
    # YAML reads 1e6 as text and 1.0e6 as a float; both mean the integer somebody wrote
    number = _number(value, exact=exact)
    if isinstance(number, int) or (number is not None and number.is_integer()):
        return int(number)
    raise ConfigError(f"{location}: expected a whole number, got {shown(value)}")


def _real(value: Any, location: str, *, exact: bool) -> float:
    number = _number(value, exact=exact)
    if number is None:
        raise ConfigError(f"{location}: expected a number, got {shown(value)}")
    try:
        return float(number)
    except OverflowError:
        raise ConfigError(f"{location}: must be finite, got {shown(value)}") from None


def _number(value: Any, *, exact: bool) -> float | int | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or exact or len(value) > 100:
        return None
    for read in (int, float):
        try:
            return read(value)
        except ValueError:
            continue
    return None


def _nearest(value: Any, choices: Sequence[Any]) -> str:
    tail = did_you_mean(value, [str(c) for c in choices])
    return tail if "did you mean" in tail else ""


def _kind(hint: Any) -> str:
    if isinstance(hint, type) and is_dataclass(hint):
        return f"a mapping of {', '.join(f.name for f in fields(hint))}" if fields(hint) else "a mapping"
    return {str: "text", bool: "true or false"}.get(hint, getattr(hint, "__name__", str(hint)))


def number_text(value: float) -> str:
    """Whole numbers with separators, others as short as they are exact."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
