"""What every figure of a report shares: colours, axes and SVG.

One colour, line style and marker per arm, the same in every figure, from a palette that stays apart under
the common kinds of colour blindness; nothing is told by colour alone. Text and grid take placeholder colours
that ``svg`` turns into CSS (`currentColor`), so a figure follows the page's light or dark scheme. Palettes:
Okabe and Ito 2008 with two more (arms), Tol "muted" (components).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from arch_lab.units import short
from blocks.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6BB1", "#A0522D")
ARM_LINES = ("-", "--", "-.", ":")
ARM_MARKERS = ("o", "s", "^", "D", "v", "P", "*", "X")
DASHES = {"-": "", "--": "7 4", "-.": "8 3 2 3", ":": "2 3"}  # of SVG lines
INK, GRID, PAGE = "#1a1b1c", "#d0d1d2", "#fefdfc"  # placeholders, replaced in ``svg``


def colour_of(index: int) -> str:
    """Of the arm at this position of the study."""
    return ARM_COLOURS[index % len(ARM_COLOURS)]


def style(index: int) -> dict[str, Any]:
    """Colour, line and marker of the arm at this position of the study."""
    return {
        "color": colour_of(index),
        "linestyle": line_style(index),
        "marker": ARM_MARKERS[index % len(ARM_MARKERS)],
    }


def line_style(index: int) -> str:
    return ARM_LINES[(index // len(ARM_COLOURS) + index) % len(ARM_LINES)]


@contextmanager
def looks() -> Iterator[None]:
    """Figures made inside look like the report's. Raises: UserError when matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(
            "the report needs matplotlib; install it with: pip install 'arch-lab[report]'"
        ) from None
    settings: Any = {
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": GRID,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "font.size": 10,
        "lines.markersize": 5,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(settings):
        yield


def svg(figure: Figure, name: str, title: str) -> str:
    """Inline SVG: text kept as text, ids prefixed by ``name`` so that figures cannot collide on a page."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace(INK, "currentColor").replace(GRID, "var(--grid)").replace(PAGE, "var(--page)")
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    width = (
        float(box[1].split()[2]) * 96 / 72
    )  # points to CSS pixels: type is then the same size in every figure
    head = (
        f'<svg viewBox="{box[1]}" style="max-width:{width:.0f}px" xmlns:xlink="http://www.w3.org/1999/xlink"'
    )
    head += f' role="img" aria-label="{label}">'
    return head + text[text.index(">") + 1 :]


def standalone_svg(figure: Figure, salt: str) -> str:
    """SVG of a file: text as text, on white for pages of either colour, coordinates to a tenth of a point."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", buffer.getvalue(), flags=re.S)
    text = re.sub(r"\n\s+", "\n", text)
    # in coordinates only: a label's digits are meant
    return re.sub(
        r' (?:d|x|y|transform)="[^"]*"', lambda match: re.sub(r"(\d+\.\d)\d+", r"\1", match[0]), text
    )


def png(figure: Figure) -> bytes:
    """The figure on white, for a file beside the report."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return buffer.getvalue()


def subplots(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure with its panels (rows, columns), without the global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def prefixed(axis: Axis, text: Callable[[float], str] = short) -> None:
    """Ticks of an axis as 20k or 1.5G."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def horizontal_bars(panel: Axes, names: list[str]) -> None:
    """One row per name, the first on top."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
