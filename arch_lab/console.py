"""What the terminal shows: tables, progress with time left, and numbers a person can read.

Results go to standard output, progress and warnings to standard error, so that ``--json`` can be piped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table


def console(*, stderr: bool = False) -> Console:
    """A terminal, or plain text of 160 columns when output goes to a file: tables must not be cut there."""
    from rich.console import Console

    out = Console(stderr=stderr, highlight=False)
    if not out.is_terminal:
        out = Console(stderr=stderr, highlight=False, width=160)
    return out


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None, numeric: Sequence[str] = ()) -> Table:
    """A table of plain values; the columns named in ``numeric`` stand right-aligned. Cells are text, never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for name in columns:
        out.add_column(name, justify="right" if name in numeric else "left", no_wrap=name in numeric)
    for row in rows:
        out.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    return out


def progress(*, quiet: bool = False) -> Progress:
    """Bars with elapsed time and time left, on standard error; silent when ``quiet`` or not in a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    out = console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=out, disable=quiet or not out.is_terminal, transient=True)


def si(value: float, digits: int = 3) -> str:
    """1234567 -> '1.23M'. ``digits`` significant ones; what is below 1000 keeps its own form."""
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # compared after rounding, so that 999 999 reads 1M and not 1e+03k
        if abs(float(f"{value:.{digits}g}")) >= limit:
            return f"{float(f'{value / limit:.{digits}g}'):g}{unit}"
    return f"{float(f'{value:.{digits}g}'):g}"


def duration(seconds: float) -> str:
    """75 -> '1m 15s'; two units at most."""
    whole = round(seconds)
    if whole < 1:
        return f"{seconds:.2g}s"
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    parts = [f"{n}{unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (secs, "s"))]
    first = next(i for i, n in enumerate((days, hours, minutes, secs)) if n)
    return " ".join(part for part in parts[first : first + 2] if not part.startswith("0"))
