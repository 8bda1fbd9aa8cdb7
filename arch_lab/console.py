"""What the terminal shows: tables, progress with time left, and numbers a person can read.

Results go to standard output, progress and warnings to standard error, so that ``--json`` can be piped.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from arch_lab import units

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.progress import Progress
    from rich.text import Text

GAP = 2  # blanks between two columns
PIPE = 160  # columns of a table that goes to a file or a pipe
PROSE = re.compile(r"[^\W\d_]{3,}")  # a word: a column whose cells hold three is no column of numbers
BAR = 30  # columns of a progress bar at most


def console(*, stderr: bool = False) -> Console:
    """A terminal, or plain text for a pipe: lines are not wrapped there and a table has 160 columns.

    Square brackets are printed as they are; colours are given by ``style=`` or ``Text``, never by markup in
    a string.
    """
    from rich.console import Console

    out = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out = Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=PIPE, soft_wrap=True)
    return out


def say(console: Console, *parts: str | tuple[str, str], whole: bool = False) -> None:
    """One line: strings as they are, or (string, style).

    ``whole``: not wrapped, so that a path can be copied.
    """
    from rich.text import Text

    console.print(Text.assemble(*parts), soft_wrap=whole or None)


def show_verdict(console: Console, lines: Sequence[str]) -> None:
    """The lines of a verdict in a box, or plain in a pipe."""
    from rich.panel import Panel
    from rich.text import Text

    if console.soft_wrap:
        for head, line in zip(("verdict:", *["        "] * len(lines)), lines, strict=False):
            say(console, f"{head} {line}")
    else:
        console.print(Panel(Text("\n".join(lines)), title="verdict", title_align="left", border_style="bold"))


class Grid:
    """Rows under a head, laid out to fit: no name is cut, no number or word of a head is broken.

    The layout of ``arch_lab.report.section.Table``. The first column holds names and keeps its width. Where
    the others do not fit beside it, text wraps between words, then the columns of ``drop`` go (least needed
    first, named in a line below), then the table is printed in parts, each with the first column again.
    ``text``: columns of text, left-aligned; the rest are numbers.
    """

    def __init__(self, heads: Sequence[str], *, text: Sequence[int] = (0,), drop: Sequence[str] = ()) -> None:
        self.heads, self.text, self.drop = list(heads), set(text), list(drop)
        self.rows: list[list[Text]] = []

    def add(self, *cells: Text) -> None:
        """One row."""
        self.rows.append(list(cells))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        width = options.max_width
        columns = [
            _Column([row[i] for row in self.rows], head, i in self.text, name=i == 0)
            for i, head in enumerate(self.heads)
        ]
        shown, hidden = _without(columns, self.drop, width)
        for i, part in enumerate(_parts(shown, width)):
            if i:
                yield Text("")
            yield from self._part(part, width)
        if hidden:
            them = "it" if len(hidden) == 1 else "them"
            yield Text(
                f"not shown: {', '.join(hidden)} (a wider terminal or --json shows {them})", style="dim"
            )

    def _part(self, part: list[_Column], width: int) -> Iterator[RenderableType]:
        from rich import box, table

        if sum(column.least for column in part) + GAP * (len(part) - 1) > width:
            yield from self._stacked(part)
            return
        out = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0))
        for column, space in zip(part, _widths(part, width), strict=True):
            out.add_column(
                column.head,
                justify="left" if column.text else "right",
                width=space,
                no_wrap=column.name,
                overflow="fold",
            )
        for i in range(len(self.rows)):
            out.add_row(*(column.cells[i] for column in part))
        yield out

    def _stacked(self, part: list[_Column]) -> Iterator[RenderableType]:
        """One line per value, for a terminal narrower than a name and a number."""
        from rich.text import Text

        for i in range(len(self.rows)):
            yield Text(part[0].cells[i].plain, overflow="fold")
            for column in part[1:]:
                yield Text(f"  {' '.join(column.head.split())}: {column.cells[i].plain}", overflow="fold")


class _Column:
    """One column of a table and the widths it can take."""

    def __init__(self, cells: list[Text], head: str, text: bool, *, name: bool) -> None:
        lines = [line for cell in cells for line in cell.plain.split("\n")]
        self.cells, self.name = cells, name
        self.text = text = text or any(len(PROSE.findall(line)) >= 3 for line in lines)
        # one blank between the words of a head: where to break it is decided by the width
        self.head = " ".join(head.split())
        self.natural = _widest([self.head, *lines])
        whole = [] if text and not name else lines
        self.least = _widest([*self.head.split(), *whole, *(word for line in lines for word in line.split())])
        if whole != lines:
            self.least = min(self.natural, max(self.least, 12))


def _widest(texts: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, texts), default=0)


def _without(columns: list[_Column], drop: Sequence[str], width: int) -> tuple[list[_Column], list[str]]:
    """The columns left when those of ``drop`` go until the rest fits, and the heads that went."""
    shown, hidden = list(columns), list[str]()
    for head in drop:
        if sum(column.least for column in shown) + GAP * (len(shown) - 1) <= width:
            break
        shown = [column for column in shown if column.head != head]
        hidden.append(head)
    return shown, hidden


def _parts(columns: list[_Column], width: int) -> list[list[_Column]]:
    """Columns in as few groups as fit the width, each led by the first column, and as even as that allows."""
    parts = _groups(columns, width)
    for narrower in range(width - 1, 0, -1):
        even = _groups(columns, narrower)
        if len(even) > len(parts):
            break
        parts = even
    return parts


def _groups(columns: list[_Column], width: int) -> list[list[_Column]]:
    """Columns in order, as many to a group as fit the width beside the first one."""
    first, groups = columns[0], [[columns[0]]]
    for column in columns[1:]:
        used = sum(c.least + GAP for c in groups[-1])
        if len(groups[-1]) > 1 and used + column.least > width:
            groups.append([first, column])
        else:
            groups[-1].append(column)
    return groups


def _widths(part: list[_Column], width: int) -> list[int]:
    """Width of each column.

    Natural widths where they fit; else the room beyond the least widths is shared by what each column lacks.
    """
    free = width - sum(column.least for column in part) - GAP * (len(part) - 1)
    lacking = [column.natural - column.least for column in part]
    if sum(lacking) <= free:
        return [column.natural for column in part]
    shares = [free * want // sum(lacking) for want in lacking]
    return [column.least + share for column, share in zip(part, shares, strict=True)]


def progress(*, quiet: bool = False) -> Progress:
    """Live lines on standard error (``live_line``); silent when ``quiet`` or not in a terminal.

    A task's field ``facts`` holds what stands beside its name, most needed first; without it, done / total.
    """
    from rich.progress import Progress, ProgressColumn

    out = console(stderr=True)

    class Line(ProgressColumn):
        def render(self, task: Any) -> Text:
            facts = task.fields.get("facts") or [f"{task.completed:,.0f}/{task.total:,.0f}"]
            facts = (
                [*facts, units.duration(task.elapsed)]
                if task.fields.get("clock") and (task.elapsed or 0) >= 1
                else facts
            )
            return live_line(
                task.description, facts, task.completed / task.total if task.total else None, out.width - 1
            )

    live = not quiet and out.is_terminal
    return Progress(
        Line(), console=out, disable=not live, transient=True, redirect_stdout=sys.stdout.isatty()
    )


def live_line(name: str, facts: Sequence[str], share: float | None, width: int) -> Text:
    """``name ━━━━━─── facts`` in one line.

    The bar shrinks first, then facts go from the right; the name stays.
    """
    from rich.text import Text

    facts = list(facts)
    while facts and len(name) + 2 + len(", ".join(facts)) > width:
        facts.pop()
    words = ", ".join(facts)
    room = min(BAR, width - len(name) - len(words) - 4)
    line = Text(name, no_wrap=True)
    if share is not None and room >= 8:
        full = round(room * min(1.0, max(0.0, share)))
        line.append(" ").append("━" * full, style="cyan")
        line.append("━" * (room - full), style="bright_black")
    return line.append("  " + words if words else "")
