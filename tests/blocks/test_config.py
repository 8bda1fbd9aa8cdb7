"""Bounds of a configuration live in its annotations, and nothing that builds one gets round them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import pytest

from blocks import BlockConfig, ConfigError
from blocks.config import Bounds, Config, Doc, Length, Pattern, Unique


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    rate: Annotated[float, Bounds(above=0, below=1)] = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    batch: Annotated[int, Bounds(minimum=1, maximum=100), Doc("Sequences per step.")] = 4
    limit: Annotated[int | None, Bounds(minimum=2)] = None
    share: Annotated[float, Bounds(minimum=0, maximum=1)] = 0.5
    rates: Annotated[list[Annotated[float, Bounds(above=0)]], Length(1, 3), Unique()] = field(
        default_factory=lambda: [0.1]
    )
    tag: Annotated[str, Length(0, 8), Pattern("[a-z]*", "small letters")] = "abc"
    kind: Literal["a", "b"] = "a"
    inner: Inner = field(default_factory=Inner)
    free: int = 0
    table: dict[str, int] = field(default_factory=dict)


WRONG: list[tuple[dict[Any, Any], str]] = [
    ({"batch": 0}, "outer.batch: must be at least 1, got 0"),
    ({"batch": 101}, "outer.batch: must be at most 100, got 101"),
    ({"batch": True}, "outer.batch: expected a whole number, got True"),
    ({"batch": 1.5}, "outer.batch: expected a whole number, got 1.5"),
    ({"batch": float("nan")}, "outer.batch: expected a whole number, got nan"),
    ({"batch": 10**5000}, "outer.batch: must be at most 100, got an integer of 16,610 bits"),
    ({"limit": 1}, "outer.limit: must be at least 2, got 1"),
    ({"share": float("inf")}, "outer.share: must be finite, got inf"),
    ({"share": 10**400}, "outer.share: must be finite, got an integer of 1,329 bits"),
    ({"share": -0.1}, "outer.share: must be at least 0, got -0.1"),
    ({"rates": []}, "outer.rates: must not be empty, got []"),
    ({"rates": [1, 2, 3, 4]}, "outer.rates: must have at most 3 entries, not 4, got [1, 2, 3, 4]"),
    ({"rates": [1, 0]}, "outer.rates[1]: must be positive, got 0"),
    ({"rates": [1, 1]}, "outer.rates: must not repeat 1.0, got [1, 1]"),
    ({"tag": "a/b"}, "outer.tag: must be small letters, got 'a/b'"),
    ({"tag": "abc\n"}, "outer.tag: must be small letters, got 'abc\\n'"),
    ({"tag": 5}, "outer.tag: expected text, got 5"),
    ({"kind": "c"}, "outer.kind: 'c' is not one of 'a', 'b'"),
    ({"inner": {"rate": 1}}, "outer.inner.rate: must be below 1, got 1"),
    ({"inner": 5}, "outer.inner: expected a mapping of rate, got 5"),
    ({"free": 2**63}, "outer.free: must be at most 9,223,372,036,854,775,807, got 9223372036854775808"),
    ({"free": "1e300"}, "outer.free: must be at most 9,223,372,036,854,775,807"),
    ({"table": {"a": "x"}}, "outer.table.a: expected a whole number, got 'x'"),
    ({"table": {1: 1}}, "outer.table: expected text as key, got 1"),
    ({"bach": 1}, "outer: unknown option 'bach'; did you mean 'batch'?"),
    ({5: 1}, "outer: unknown option 5; valid: batch, free"),
    ({None: 1}, "outer: unknown option None; valid: batch, free"),
    ({(1, 2): 1}, "outer: unknown option (1, 2); valid: batch, free"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[m for _, m in WRONG])
def test_a_value_out_of_bounds_is_named_with_its_place(options: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Outer.from_options(options, where="outer")
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"limit": 1}, {"rates": []}, {"rates": [-1.0]}, {"batch": "4"}, {"tag": "A"}]
)
def test_construction_in_python_is_held_to_the_bounds(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"Outer.{next(iter(options))}"):
        Outer(**options)
    with pytest.raises(ConfigError):
        replace(Outer(), **options)


def test_valid_values_arrive_as_the_annotated_types() -> None:
    config = Outer.from_options(
        {"batch": "1e1", "limit": None, "rates": (1, 2), "inner": {"rate": 0.25}, "table": {"a": 1.0}}
    )
    assert (config.batch, config.limit, config.rates, config.inner) == (
        10,
        None,
        [1.0, 2.0],
        Inner(rate=0.25),
    )
    assert type(config.table["a"]) is int


def test_a_whole_number_in_text_keeps_its_last_digit() -> None:
    assert Outer.from_options({"free": "9007199254740993"}).free == 9007199254740993


@dataclass(frozen=True, kw_only=True)
class Careless(Outer):
    """A subclass whose own check does not call its base's."""

    order: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.order.append("own")


@dataclass(frozen=True, kw_only=True)
class Careful(Careless):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.order.append("below")


@pytest.mark.parametrize("cls", [Careless, Careful])
def test_a_subclass_with_checks_of_its_own_keeps_the_bounds(cls: type[Careless]) -> None:
    order: list[str] = []
    with pytest.raises(ConfigError, match=f"{cls.__name__}.batch: must be at least 1"):
        cls(batch=0, order=order)
    assert order == []  # the bounds come first, so that a cross-field check may rely on them


def test_the_checks_of_all_classes_run_once() -> None:
    assert Careful().order == ["own", "below"]


def test_a_configuration_without_annotated_bounds_works_as_ever() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Plain(BlockConfig):
        width: int
        other: Unknown = None  # type: ignore[name-defined]  # noqa: F821  (a name for type checkers only)

        def __post_init__(self) -> None:
            if self.width < 1:
                raise ConfigError("Plain: width must be at least 1")

    assert Plain(width=3).width == 3 and Plain.from_options({"width": 3.0, "other": "x"}).width == 3
    with pytest.raises(ConfigError, match="Plain: width must be"):
        Plain(width=0)
