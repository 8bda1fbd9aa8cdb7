"""Learning curves of a study over its learning-rate grid, as one SVG file that stands alone.

A column per arm, a line per rate.

It shows what a table of final scores cannot: which rates are unstable, and whether a bad one learns slowly
or breaks off. A study of several tasks has a pair of rows per task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arch_lab import files
from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Record
from arch_lab.report.curves import (
    AXES,
    TRAIN_LOSS,
    Curve,
    mean_curve,
    smooth,
    trial_curve,
    trial_folder,
    tuned_key,
)
from arch_lab.report.figures import standalone_svg
from arch_lab.study.events import METRICS
from arch_lab.study.study import Study
from arch_lab.units import rate, short
from blocks.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 48  # of a line: the file stays small, and a smoothed curve has no more to say
WIDTH, HEIGHT = 4.6, 3.0  # inches, of a panel
SPAN = 1 / 20  # of a curve: how far the training loss is smoothed


@dataclass(frozen=True)
class RateLine:
    """Curve of one arm at one learning rate.

    The mean of its trials that finished, or one trial that broke off.
    """

    learning_rate: float
    curve: Curve
    broken: bool


@dataclass(frozen=True)
class Row:
    """Panels of all arms that share a scale. ``lines``: by arm."""

    label: str
    lines: dict[str, list[RateLine]]


def write_rates(folder: Path, study: Study, path: Path, arms: Sequence[str] = ()) -> Path:
    """Write training loss (above) and tuning score (below) of ``arms``, or of all, at every learning rate.

    Seeds of one rate are averaged over the steps they share. A trial that diverged is drawn alone, up to
    where it broke off, and ends in a cross. The same study gives the same bytes.
    Raises: UserError for an unknown arm, or when no trial left a curve.
    """
    files.write_text(path, standalone_svg(draw(folder, study, arms), study.study))
    return Path(path)


def draw(folder: Path, study: Study, arms: Sequence[str] = ()) -> Figure:
    """The figure. Raises: UserError as ``write_rates``."""
    names = [arm.name for arm in study.arms]
    unknown = [arm for arm in arms if arm not in names]
    if unknown:
        raise UserError(f"study {study.study!r} has no arm {unknown[0]!r}; it has {', '.join(names)}")
    rows = _rows(folder, study, list(arms) or names)
    columns = [name for name in names if any(row.lines.get(name) for row in rows)]
    if not columns:
        of = f" of {', '.join(arms)}" if arms else ""
        raise UserError(
            f"{folder}: no trial{of} left a curve to draw (its experiment writes no {METRICS}, or it is gone)"
        )
    rates = sorted({line.learning_rate for row in rows for lines in row.lines.values() for line in lines})
    figure, panels = _panels(len(rows), len(columns))
    for row, axes in zip(rows, panels, strict=True):
        _draw_row(row, axes, columns, rates)
    for panel, name in zip(panels[0], columns, strict=True):
        panel.set_title(name, fontsize=10)
    labels: dict[Any, Any] = {}
    for panel in panels.flat:
        handles, words = panel.get_legend_handles_labels()
        labels |= dict(zip(words, handles, strict=True))
    words = [rate(learning_rate) for learning_rate in rates if rate(learning_rate) in labels]
    handles = [labels[word] for word in words]
    figure.legend(
        handles, words, loc="outside lower center", ncols=len(words), title="learning rate", frameon=False
    )
    return figure


def _rows(folder: Path, study: Study, arms: Sequence[str]) -> list[Row]:
    """Two rows per task, without those that nothing is drawn in."""
    rows = []
    for task in study.tasks:
        for key, label in (
            (TRAIN_LOSS, "training loss"),
            (tuned_key(task.primary), f"tuning {task.primary.name}"),
        ):
            records = [r for r in study.records(task=task.name) if r.learning_rate is not None]
            lines = {
                arm: _lines(folder, [r for r in records if r.arm == arm], key, task.primary) for arm in arms
            }
            title = f"{task.name}: {label}" if task.name else label
            rows += [Row(title, lines)] if any(lines.values()) else []
    return rows


def _lines(folder: Path, records: Sequence[Record], key: str, primary: Measure) -> list[RateLine]:
    lines: list[RateLine] = []
    for learning_rate in sorted({r.learning_rate for r in records if r.learning_rate is not None}):
        finished, broken = list[Curve](), list[Curve]()
        for record in (r for r in records if r.learning_rate == learning_rate):
            curve = trial_curve(trial_folder(folder, record) / METRICS, key)
            if curve is not None:
                (broken if record.score(primary.key) is None else finished).append(curve)
        mean = mean_curve(finished)
        lines += [RateLine(learning_rate, _smoothed(mean, key), False)] if mean is not None else []
        lines += [RateLine(learning_rate, _smoothed(curve, key), True) for curve in broken]
    return lines


def _smoothed(curve: Curve, key: str) -> Curve:
    y = smooth(curve.middle, round(len(curve.middle) * SPAN)) if key == TRAIN_LOSS else curve.middle
    return Curve(curve.x, y, y, y, curve.seeds)


def _draw_row(row: Row, axes: Sequence[Axes], columns: Sequence[str], rates: Sequence[float]) -> None:
    for panel, name in zip(axes, columns, strict=True):
        for line in row.lines.get(name, []):
            _draw_line(panel, line, rates.index(line.learning_rate) / max(1, len(rates) - 1))
        _dress(panel)
    lines = [line for lines in row.lines.values() for line in lines]
    axis = lines[0].curve.axes[0]
    for panel in axes:
        panel.set_xlabel(AXES[axis])
    axes[0].set_ylabel(row.label)
    _frame(axes[0], [line.curve.middle for line in lines])  # the panels of a row share their scale


def _draw_line(panel: Axes, line: RateLine, share: float) -> None:
    """``share``: position of the learning rate in the grid, 0 to 1."""
    import matplotlib

    colour = matplotlib.colormaps["viridis"](0.9 * share)
    x, y = line.curve.x[line.curve.axes[0]], line.curve.middle
    some = np.unique(np.linspace(0, len(x) - 1, POINTS).round().astype(int))
    few: Any = {"marker": "o", "markersize": 3} if len(x) < 30 else {}
    label = None if line.broken else rate(line.learning_rate)
    panel.plot(
        x[some],
        y[some],
        label=label,
        linestyle="--" if line.broken else "-",
        color=colour,
        linewidth=1.5,
        **few,
    )
    if line.broken:
        panel.plot(x[-1:], y[-1:], marker="x", color=colour, markersize=8, markeredgewidth=2, linestyle="")


def _frame(panel: Axes, values: Sequence[np.ndarray]) -> None:
    """Scale to what follows the first twentieth.

    The fall from chance, or a loss that exploded, would flatten all the rest.
    """
    low = min(float(y.min()) for y in values)
    highs = sorted(float(y[len(y) // 20 :].max()) for y in values)
    middle = highs[len(highs) // 2]
    high = min(highs[-1], low + 2 * (middle - low)) if middle > low else highs[-1]
    margin = 0.05 * (high - low) or 0.1
    panel.set_ylim(low - margin, high + margin)


def _dress(panel: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    # the grid shows where ticks would be, and a file of many panels stays small
    panel.tick_params(left=False, bottom=False)
    panel.spines[["top", "right"]].set_visible(False)


def _panels(rows: int, columns: int) -> tuple[Figure, Any]:
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("curves need matplotlib; install it with: pip install 'arch-lab[report]'") from None
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows + 0.5), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharex="col", sharey="row")
