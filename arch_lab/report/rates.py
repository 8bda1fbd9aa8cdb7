"""Learning curves of a study over its learning-rate grid, as one SVG file that stands alone: one panel an arm, one line a rate.

It shows what a table of final scores cannot: which rates are unstable, and whether a bad one learns slowly or breaks off.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arch_lab import files
from arch_lab.judge.measures import primary
from arch_lab.report.curves import read_metrics, run_path, series, smooth
from arch_lab.report.rows import diverged
from arch_lab.units import rate, short
from blocks.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 48  # of a line: the file stays small, and a smoothed curve has no more to say
WIDTH, HEIGHT = 4.6, 3.0  # inches, of a panel
SPAN = 1 / 20  # of the records: how far the training loss is smoothed


def write_rates(study_dir: Path, study: Mapping[str, Any], path: Path, arms: Sequence[str] = ()) -> Path:
    """``path``: training loss (above) and tuning score (below) of every arm, or of ``arms``, at every learning rate.

    Seeds of one rate are averaged over the steps they share; a run that diverged is drawn alone, up to where it broke off, and ends
    in a cross. The same study gives the same bytes. Raises: UserError for an unknown arm, or when no run left metrics.
    """
    text = _svg(draw(study_dir, study, arms), study["study"])
    files.write_text(path, text)
    return Path(path)


def draw(study_dir: Path, study: Mapping[str, Any], arms: Sequence[str] = ()) -> Figure:
    """The figure. Raises: UserError as ``write_rates``."""
    known = [arm["name"] for arm in study["arms"]]
    unknown = [arm for arm in arms if arm not in known]
    if unknown:
        raise UserError(f"study {study['study']!r} has no arm {unknown[0]!r}; it has {', '.join(known)}")
    names, judged = list(arms) or known, primary(study)
    rates = sorted({r["learning_rate"] for r in study["results"] if r["arm"] in names})
    rows = {"train_loss": "training loss, nats per token", judged.tuned: f"tuning {judged.name}"}
    figure, axes = _panels(len(names))
    drawn = 0
    for row, (key, label) in enumerate(rows.items()):
        ends: list[tuple[float, float]] = []
        for column, arm in enumerate(names):
            panel = axes[row][column]
            for i, learning_rate in enumerate(rates):
                runs = [
                    r for r in study["results"] if r["arm"] == arm and r["learning_rate"] == learning_rate
                ]
                ends += _lines(panel, study_dir, runs, key, i, len(rates), judged)
            _dress(panel)
            panel.set_title(arm if row == 0 else "", fontsize=10)
            panel.set_xlabel("training tokens" if row else "")
            panel.set_ylabel(label if column == 0 else "")
        drawn += len(ends)
        _frame(axes[row][0], ends)  # the panels of a row share their scale
    if not drawn:
        raise UserError(f"{study_dir}: no run of {', '.join(names)} left metrics to draw")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), title="learning rate", frameon=False
    )
    return figure


def _lines(
    panel: Axes, study_dir: Path, runs: list[Mapping[str, Any]], key: str, place: int, rates: int, judged: Any
) -> list[tuple[float, float]]:
    """Draw one learning rate; returns (a value soon after the start, the lowest value) of each line."""
    import matplotlib

    if not runs:
        return []
    colour = matplotlib.colormaps["viridis"](0.9 * place / max(1, rates - 1))
    look: dict[str, Any] = {
        "color": colour,
        "linewidth": 1.5,
        "marker": None if key == "train_loss" else "o",
        "markersize": 3,
    }
    found = []
    label: str | None = rate(runs[0]["learning_rate"])
    good = [
        series(read_metrics(run_path(study_dir, r) / "metrics.jsonl"), key)
        for r in runs
        if not diverged(r, judged)
    ]
    lost = [
        series(read_metrics(run_path(study_dir, r) / "metrics.jsonl"), key)
        for r in runs
        if diverged(r, judged)
    ]
    for points, broken in [(_mean([p for p in good if p]), False), *((_mean([p]), True) for p in lost if p)]:
        if points is None:
            continue
        x, y = points
        if key == "train_loss":
            y = smooth(y, round(len(y) * SPAN))
        some = np.unique(np.linspace(0, len(x) - 1, POINTS).round().astype(int))
        panel.plot(x[some], y[some], label=label, linestyle="--" if broken else "-", **look)
        label = None
        if broken:
            panel.plot(
                x[-1:], y[-1:], marker="x", color=colour, markersize=8, markeredgewidth=2, linestyle=""
            )
        found.append((float(y[min(len(y) - 1, len(y) // 20)]), float(y.min())))
    return found


def _mean(runs: list[dict[int, dict[str, float]]]) -> tuple[np.ndarray, np.ndarray] | None:
    """(tokens, mean) over the steps that all runs have."""
    steps = sorted(set.intersection(*(set(points) for points in runs))) if runs else []
    if not steps:
        return None
    tokens = np.array([runs[0][s]["tokens"] for s in steps])
    return tokens, np.mean([[points[s]["y"] for s in steps] for points in runs], axis=0)


def _frame(panel: Axes, ends: list[tuple[float, float]]) -> None:
    """Scale to what follows the first twentieth: the fall from chance, or a loss that exploded, would flatten all the rest."""
    if ends:
        low, highs = min(e[1] for e in ends), sorted(e[0] for e in ends)
        high = (
            min(highs[-1], low + 2 * (highs[len(highs) // 2] - low))
            if highs[len(highs) // 2] > low
            else highs[-1]
        )
        margin = 0.05 * (high - low) or 0.1
        panel.set_ylim(low - margin, high + margin)


def _dress(panel: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(
        left=False, bottom=False
    )  # the grid shows where they would be, and a file of many panels stays small
    panel.spines[["top", "right"]].set_visible(False)


def _panels(columns: int) -> tuple[Figure, Any]:
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("curves need matplotlib; install it with: pip install 'arch-lab[report]'") from None
    figure = Figure(figsize=(WIDTH * columns, 2 * HEIGHT + 0.5), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(2, columns, squeeze=False, sharex="col", sharey="row")


def _svg(figure: Figure, salt: str) -> str:
    """Text kept as text, on white (the file is shown on pages of either colour), coordinates to a tenth of a point."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", buffer.getvalue(), flags=re.S)
    text = re.sub(r"\n\s+", "\n", text)
    # in coordinates only: a label's digits are meant
    return re.sub(
        r' (?:d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\d+\.\d)\d+", r"\1", found[0]), text
    )
