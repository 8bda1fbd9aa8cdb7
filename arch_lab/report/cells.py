"""A table of plain cells: the terminal, the page and a README print the same one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Table:
    """``words``: columns of text, the rest are numbers. ``drawing``: name of the figure that shows the same."""

    title: str
    headers: list[str]
    rows: list[list[str]]
    note: str = ""
    words: tuple[int, ...] = (0,)
    drawing: str = ""

    @property
    def heading(self) -> str:
        return self.title[:1].upper() + self.title[1:]


def show(found: Table, console: Any) -> None:
    """On a rich console."""
    from arch_lab import console as terminal

    terminal.say(console, "\n", (found.title, "bold"), (f" ({found.note})" if found.note else "", "dim"))
    out = terminal.Table(found.headers, words=found.words)
    for row in found.rows:
        out.add(*row)
    console.print(out)


def markdown(found: Table) -> str:
    """The table under its bold title."""
    align = ["---" if i in found.words else "---:" for i in range(len(found.headers))]
    lines = [found.headers, align, *found.rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"**{found.heading}**" + (f" ({found.note})" if found.note else "") + f":\n\n{body}"


def readme(study: Mapping[str, Any], tables: Iterable[Table], how: str = "") -> str:
    """A study's verdict, the command behind it, its tables and warnings, for a README. ``how``: said of the command ("cpu time")."""
    e = study["environment"]
    machine = f"{e.get('threads', '?')} of {e.get('cores', '?')} cores, {e['cpu'] if e.get('device', 'cpu') == 'cpu' else e['device']}"
    command = study.get("command") or f"arch-lab compare {study['study']}"  # older studies do not say
    commit = f"commit {e['commit']}, " if e.get("commit") else ""
    made = f"`{command}`, {how + ', ' if how else ''}{machine}, torch {e['torch']}, {commit}{e['date']}."
    parts = [study["verdict"]["text"], made, *map(markdown, tables)]
    parts += [f"Warning of the study: {line}." for line in study["warnings"]]
    return "\n\n".join(parts) + "\n"
