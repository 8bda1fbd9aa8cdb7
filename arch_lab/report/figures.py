"""The report's figures as matplotlib objects, and their SVG.

One colour, line style and marker per arm, the same in every figure, from a palette that stays apart under the common
kinds of colour blindness; nothing is told by colour alone. Text and grid take placeholder colours that ``svg`` turns
into CSS (`currentColor`), so a figure follows the page's light or dark scheme.
Palettes: Okabe and Ito 2008 (arms), Tol "muted" (components).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arch_lab.judge.measures import primary
from arch_lab.judge.records import is_finite
from arch_lab.report.curves import AXES, arm_curve
from arch_lab.report.rows import better_arm, diverged
from arch_lab.units import rate, short
from blocks.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
ARM_LINES = ("-", "--", "-.", ":")
ARM_MARKERS = ("o", "s", "^", "D", "v", "P", "*", "X")
COMPONENT_COLOURS = (
    "#88CCEE",
    "#CC6677",
    "#DDCC77",
    "#117733",
    "#AA4499",
    "#44AA99",
    "#999933",
    "#882255",
    "#332288",
)
INK, GRID, PAGE = "#1a1b1c", "#d0d1d2", "#fefdfc"  # placeholders, replaced in ``svg``
AXIS_NAMES = {"tokens": "training tokens", "flops": "training FLOPs", "seconds": "seconds of training"}


def style(index: int) -> dict[str, Any]:
    """Colour, line and marker of the arm at this position of the study."""
    return {
        "color": ARM_COLOURS[index % len(ARM_COLOURS)],
        "linestyle": ARM_LINES[(index // len(ARM_COLOURS) + index) % len(ARM_LINES)],
        "marker": ARM_MARKERS[index % len(ARM_MARKERS)],
    }


def build(study_dir: Path, study: Mapping[str, Any]) -> dict[str, Figure]:
    """Every figure this study has data for, by name. Raises: UserError when matplotlib is not installed."""
    makers: dict[str, Callable[[Path, Mapping[str, Any]], Figure | None]] = {
        "differences": differences,
        "losses": losses,
        "sensitivity": sensitivity,
        "components": components,
        "speed": speed,
    }
    with looks():
        made = {name: make(study_dir, study) for name, make in makers.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


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


def subplots(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, np.ndarray]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)  # a canvas of its own: no global pyplot state, no display
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _prefixed(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _names(study: Mapping[str, Any]) -> list[str]:
    return [arm["name"] for arm in study["arms"]]


def losses(study_dir: Path, study: Mapping[str, Any]) -> Figure | None:
    """Training loss and the tuning score against tokens, FLOPs and seconds at each arm's chosen learning rate."""
    judged = primary(study)
    rows = {"train_loss": "training loss, nats per token", judged.tuned: f"tuning {judged.name}"}
    curves = {}
    for key in rows:
        for arm in _names(study):
            runs = [
                r
                for r in study["results"]
                if r["arm"] == arm and r["learning_rate"] == study["selected"].get(arm)
            ]
            curves[key, arm] = arm_curve(study_dir, runs, key, judged)
    if all(curve is None for curve in curves.values()):
        return None
    figure, axes = subplots(2, 3, (11, 6.2), sharex="col", sharey="row")
    for row, (key, label) in enumerate(rows.items()):
        for column, axis in enumerate(AXES):
            panel = axes[row, column]
            for i, arm in enumerate(_names(study)):
                curve = curves[key, arm]
                if curve is None:
                    continue
                look = style(i) | ({"marker": None} if len(curve.middle) > 30 else {"markersize": 3})
                panel.plot(curve.x[axis], curve.middle, label=arm, linewidth=1.6, **look)
                panel.fill_between(
                    curve.x[axis], curve.low, curve.high, color=look["color"], alpha=0.2, linewidth=0
                )
            _prefixed(panel.xaxis)
            if row == 1:
                panel.set_xlabel(AXIS_NAMES[axis])
                panel.set_xlim(left=0)
        axes[row, 0].set_ylabel(label)
        _skip_warmup(axes[row, 0], [curves[key, arm] for arm in _names(study)])
    handles, labels = next((h, n) for h, n in (panel.get_legend_handles_labels() for panel in axes.flat) if n)
    figure.legend(handles, labels, loc="outside upper left", ncols=6)
    return figure


def _skip_warmup(panel: Axes, curves: list[Any]) -> None:
    """Scale to the losses after the first 3 % of training: the fall from random guessing would flatten all the rest."""
    present = [c for c in curves if c is not None]
    if present:
        high = max(float(c.high[len(c.high) * 3 // 100]) for c in present)
        low = min(float(c.low.min()) for c in present)
        margin = 0.05 * (high - low) or 0.1
        panel.set_ylim(low - margin, high + margin)


def sensitivity(study_dir: Path, study: Mapping[str, Any]) -> Figure | None:
    """The tuning score against learning rate: every seed a dot, the mean a line, the choice ringed, divergence a cross."""
    results, judged = study["results"], primary(study)
    rates = sorted(
        {r["learning_rate"] for r in results if is_finite(r["learning_rate"]) and r["learning_rate"] > 0}
    )
    values = [r[judged.tuned] for r in results if not diverged(r, judged) and is_finite(r.get(judged.tuned))]
    if not rates or not values:
        return None
    figure, axes = subplots(1, 1, (9.4, 3.9))
    panel = axes[0, 0]
    names = _names(study)
    step = float(np.min(np.diff(np.log2(rates)))) if len(rates) > 1 else 1.0
    for i, arm in enumerate(names):
        look = style(i)
        shift = 2 ** (
            step * 0.12 * (i - (len(names) - 1) / 2)
        )  # side by side, so that crosses and dots do not hide
        means = []
        for x in rates:
            runs = [r for r in results if r["arm"] == arm and r["learning_rate"] == x]
            good = [
                r[judged.tuned] for r in runs if not diverged(r, judged) and is_finite(r.get(judged.tuned))
            ]
            panel.plot(
                [x * shift] * len(good),
                good,
                linestyle="",
                marker=look["marker"],
                color=look["color"],
                alpha=0.45,
                markersize=4,
            )
            lost = sum(diverged(r, judged) for r in runs)
            if lost:
                panel.plot(
                    [x * shift],
                    [0.96],
                    transform=panel.get_xaxis_transform(),
                    marker="x",
                    color=look["color"],
                    markersize=8,
                    markeredgewidth=2,
                )
                panel.annotate(
                    f"{lost}/{len(runs)}",
                    (x * shift, 0.9),
                    xycoords=panel.get_xaxis_transform(),
                    ha="center",
                    fontsize=8,
                )
            if good:
                means.append((x * shift, float(np.mean(good))))
                if x == study["selected"].get(arm):
                    panel.plot(
                        *means[-1],
                        marker="o",
                        markersize=15,
                        markerfacecolor="none",
                        markeredgecolor=look["color"],
                        markeredgewidth=2,
                    )
        panel.plot([m[0] for m in means], [m[1] for m in means], label=arm, linewidth=1.6, **look)
    low, high = min(values), max(values)
    if low > 0 and high > 3 * low:
        panel.set_yscale("log")
    else:  # headroom for the crosses
        panel.set_ylim(low - 0.06 * (high - low or 1), high + 0.3 * (high - low or 1))
    panel.set_xscale("log", base=2)
    panel.set_xticks(rates, [rate(x) for x in rates])
    panel.minorticks_off()
    panel.set_xlabel("learning rate (log scale)")
    panel.set_ylabel(f"final tuning {judged.name}")
    figure.legend(loc="outside upper left", ncols=6)
    return figure


def differences(study_dir: Path, study: Mapping[str, Any]) -> Figure | None:
    """Forest plot: each pair's difference, its seeds, its interval; hollow where the pair is not distinguishable."""
    pairs = [p for p in study["verdict"]["pairs"] if is_finite(p["difference"])]
    if not pairs:
        return None
    judged = primary(study)
    figure, axes = subplots(1, 1, (9.4, 1.0 + 0.5 * len(pairs)))
    panel = axes[0, 0]
    panel.axvline(0, color=INK, linewidth=1)
    for row, p in enumerate(pairs):
        better = better_arm(p, judged)
        colour = style(_names(study).index(better))["color"] if better else INK
        if is_finite(p["low"]):
            panel.plot(
                [p["low"], p["high"]], [row, row], color=colour, linewidth=2, marker="|", markersize=10
            )
        panel.plot(
            p["differences"],
            [row + 0.22] * len(p["differences"]),
            linestyle="",
            marker=".",
            color=colour,
            alpha=0.6,
        )
        panel.plot(
            p["difference"],
            row,
            marker="D",
            markersize=8,
            color=colour,
            markerfacecolor=colour if better else PAGE,
        )
        word = (
            f"{better} better" if better else "not distinguishable" if is_finite(p["low"]) else "no verdict"
        )
        panel.annotate(word, (1.01, row), xycoords=panel.get_yaxis_transform(), va="center", fontsize=9)
    panel.set_yticks(range(len(pairs)), [f"{p['a']} − {p['b']}" for p in pairs])
    panel.set_ylim(len(pairs) - 0.5, -0.6)
    panel.margins(x=0.12)
    panel.grid(axis="y", visible=False)
    side = "above" if judged.higher_is_better else "below"
    panel.set_xlabel(f"difference in {judged.name} ({side} 0: the first named is better)")
    return figure


def components(study_dir: Path, study: Mapping[str, Any]) -> Figure | None:
    """Where the parameters and the FLOPs are: one stacked bar per arm; the smallest parts are pooled as 'other'."""
    arms = [arm for arm in study["arms"] if arm.get("components")]
    if not arms:
        return None
    panels = {"parameters": "parameters", "flops_per_token": "FLOPs per token"}
    shares: dict[str, float] = {}
    for arm in arms:
        for key in panels:
            whole = sum(c[key] for c in arm["components"]) or 1
            for c in arm["components"]:
                shares[c["name"]] = max(shares.get(c["name"], 0.0), c[key] / whole)
    keep = sorted(shares, key=lambda n: -shares[n])[: len(COMPONENT_COLOURS) - 1]
    names = [n for n in shares if n in keep] + (["other"] if len(shares) > len(keep) else [])
    figure, axes = subplots(1, 2, (11, 1.3 + 0.5 * len(arms)), sharey=True)
    for panel, (key, label) in zip(axes[0], panels.items(), strict=True):
        left = np.zeros(len(arms))
        for i, name in enumerate(names):
            sizes = np.array(
                [
                    sum(
                        c[key]
                        for c in a["components"]
                        if c["name"] == name or (name == "other" and c["name"] not in keep)
                    )
                    for a in arms
                ],
                dtype=float,
            )
            panel.barh(
                range(len(arms)),
                sizes,
                left=left,
                label=name,
                color=COMPONENT_COLOURS[i],
                edgecolor="white",
                linewidth=0.8,
                height=0.62,
            )
            left += sizes
        for row, total in enumerate(left):
            panel.annotate(
                short(total), (total, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
            )
        panel.set_yticks(range(len(arms)), [a["name"] for a in arms])
        panel.set_ylim(len(arms) - 0.5, -0.5)
        panel.set_xlim(0, float(left.max()) * 1.12 or 1)
        panel.grid(axis="y", visible=False)
        panel.set_xlabel(label)
        _prefixed(panel.xaxis)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=5)
    return figure


def speed(study_dir: Path, study: Mapping[str, Any]) -> Figure | None:
    """Training throughput and peak memory at the chosen learning rate: bars are the mean, dots the seeds."""
    panels: dict[str, tuple[str, Callable[[float], str]]] = {
        "tokens_per_second": ("training tokens per second (longer is faster)", short),
        "peak_memory_bytes": ("peak memory while training, MiB (shorter is smaller)", short),
    }
    names = _names(study)
    scale = {"tokens_per_second": 1, "peak_memory_bytes": 2**20}
    chosen = [
        r
        for r in study["results"]
        if r["learning_rate"] == study["selected"].get(r["arm"]) and not diverged(r, primary(study))
    ]
    data = {
        (arm, key): [r[key] / scale[key] for r in chosen if r["arm"] == arm and is_finite(r.get(key))]
        for arm in names
        for key in panels
    }
    if not any(data.values()):
        return None
    figure, axes = subplots(1, 2, (11, 0.9 + 0.45 * len(names)), sharey=True)
    for panel, (key, (label, words)) in zip(axes[0], panels.items(), strict=True):
        for row, arm in enumerate(names):
            values = data[arm, key]
            if values:
                mean = float(np.mean(values))
                panel.barh(row, mean, color=style(row)["color"], height=0.6, alpha=0.8)
                panel.plot(values, [row] * len(values), linestyle="", marker="|", markersize=9, color=INK)
                panel.annotate(
                    words(mean),
                    (max(values), row),
                    xytext=(7, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
        top = max((v for arm in names for v in data[arm, key]), default=1.0)
        panel.set_xlim(0, top * 1.2)
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.grid(axis="y", visible=False)
        panel.set_xlabel(label)
        _prefixed(panel.xaxis)
    return figure
