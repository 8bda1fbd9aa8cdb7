"""The few HTML pieces the report is built from. Everything that is not ``Raw`` is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


class Raw(str):
    """HTML that is already safe."""


def text(value: Any) -> Raw:
    return value if isinstance(value, Raw) else Raw(escape(str(value)))


def tag(name: str, *content: Any, **attributes: str) -> Raw:
    """``tag("p", "a < b", class_="note")``; a trailing underscore frees Python's keywords."""
    head = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items()
    )
    return Raw(f"<{name}{head}>{join(content)}</{name}>")


def join(parts: Sequence[Any]) -> Raw:
    return Raw("".join(text(part) for part in parts))


def paragraph(*content: Any, kind: str = "") -> Raw:
    return tag("p", *content, **({"class_": kind} if kind else {}))


def items(lines: Sequence[Any]) -> Raw:
    return tag("ul", *(tag("li", line) for line in lines))


def table(
    headers: Sequence[Any],
    rows: Sequence[Sequence[Any]],
    *,
    words: tuple[int, ...] = (0,),
    caption: str = "",
    kind: str = "",
) -> Raw:
    """A table that scrolls sideways on its own; the columns in ``words`` are left-aligned text, the rest numbers.

    A leading column of names becomes the row's header, for screen readers and for print.
    """
    classes = ["w" if i in words else "n" for i in range(len(headers))]
    head = tag("tr", *(tag("th", h, scope="col", class_=c) for h, c in zip(headers, classes, strict=True)))
    body = []
    for row in rows:
        cells = [
            tag("th", row[0], scope="row", class_="w"),
            *(tag("td", cell, class_=c) for cell, c in zip(row[1:], classes[1:], strict=True)),
        ]
        body.append(tag("tr", *cells))
    content = ([tag("caption", caption)] if caption else []) + [tag("thead", head), tag("tbody", *body)]
    return tag("div", tag("table", *content), class_=f"scroll {kind}".strip())


def section(title: str, *content: Any, anchor: str) -> Raw:
    return tag("section", tag("h2", title), *content, id=anchor)


def figure(drawing: str, caption: str) -> Raw:
    return tag("figure", tag("div", Raw(drawing), class_="scroll"), tag("figcaption", caption))


def flatten(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as ('outer.inner', value) pairs."""
    out: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            out += flatten(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", value))
    return out
