"""Tables and sections of a report. The terminal, the page and Markdown print the same objects.

An experiment gives further sections: ``experiment.sections(study)``. It is asked with a Plan as well
(``arch-lab plan``, where there is nothing to show but what will be done), which a Study is too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from arch_lab import units
from arch_lab.console import Grid
from arch_lab.stored import Json

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console, ConsoleOptions, RenderableType


GOOD, BAD, STRONG, SOFT, ARM = "good", "bad", "strong", "soft", "arm"
STYLES = {
    GOOD: "green",
    BAD: "bold red",
    STRONG: "bold",
    SOFT: "dim",
    ARM: "",
    "": "",
}  # kind of a cell -> in a terminal


@dataclass(frozen=True)
class Cell:
    """Text of a table and what it means.

    ``kind``: good, bad, strong, soft, or arm (the name of an arm: its colour stands beside it). ``value``:
    sorts the column, where the text does not begin with a number.
    """

    text: str
    kind: str = ""
    value: float | None = None

    def __str__(self) -> str:
        return self.text


Value = Cell | str | int | float | None  # of a table; None is a dash


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a head.

    ``note``: stands in brackets behind the title, below the table on a page. ``text_columns``: columns of
    text, left-aligned; the others are numbers. ``drop``: heads of the columns that a narrow terminal leaves
    out, least needed first.
    """

    title: str = ""
    headers: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    text_columns: Sequence[int] = (0,)
    drop: Sequence[str] = ()

    @property
    def heading(self) -> str:
        return self.title[:1].upper() + self.title[1:]

    @property
    def cells(self) -> list[list[Cell]]:
        return [[cell_of(value) for value in row] for row in self.rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        if self.title or self.note:
            yield Text.assemble((self.title, "bold"), (f" ({self.note})" if self.note else "", "dim"))
        grid = Grid(self.headers, text=self.text_columns, drop=self.drop)
        for row in self.cells:
            grid.add(*(Text(cell.text, style=STYLES[cell.kind]) for cell in row))
        yield grid

    def show(self, console: Console) -> None:
        """Print below an empty line."""
        console.print()
        console.print(self)

    def markdown(self) -> str:
        """The table under its bold title."""
        align = ["---" if i in self.text_columns else "---:" for i in range(len(self.headers))]
        lines = [list(self.headers), align, *([cell.text for cell in row] for row in self.cells)]
        body = "\n".join(
            "| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines
        )
        note = f" ({self.note})" if self.note else ""
        return f"**{self.heading}**{note}:\n\n{body}" if self.title else body


def cell_of(value: Value) -> Cell:
    """A value as a cell: None is a dash, a number stands as Python prints it."""
    if isinstance(value, Cell):
        return value
    return Cell(units.DASH if value is None else str(value))


class Points(Protocol):
    """What the script of a page draws again over other axes (arch_lab.report.chart.Chart)."""

    def to_json(self) -> Json: ...


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure. ``draw`` is called inside ``figures.looks()``.

    ``name``: letters and hyphens, one of a kind on a page, and its tag in TensorBoard. ``file``: name of a
    PNG of it in the study's folder. ``chart``: its points, where the page lets a reader switch the axes.
    """

    name: str
    caption: str
    draw: Callable[[], Figure]
    file: str = ""
    chart: Points | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    """Part of a report: drawings, paragraphs, tables, then a list.

    ``anchor``: letters and hyphens, one of a kind on a page. ``page_only``: neither in the terminal nor in
    Markdown. ``folded``: opened by a click on the page. ``terms``: word -> meaning, for the glossary.
    """

    title: str
    anchor: str
    drawings: Sequence[Drawing] = ()
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    page_only: bool = False
    folded: bool = False
    terms: dict[str, str] = field(default_factory=dict)
