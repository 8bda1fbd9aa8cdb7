"""Curves of a page whose axes a reader can switch.

Drawn as a figure, and embedded as points for the script of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from arch_lab.report.curves import AXES, TRAIN_LOSS, Curve, arm_curve, tuned_key
from arch_lab.report.figures import DASHES, colour_of, line_style, prefixed, style, subplots
from arch_lab.report.section import Drawing
from arch_lab.stored import Json
from arch_lab.study.study import Study
from arch_lab.units import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WARMUP = 0.03  # of training: the fall from random guessing would flatten all the rest
POINTS = 200  # of an embedded line


@dataclass(frozen=True, kw_only=True)
class Line:
    """Curve of an arm. ``position``: of the arm in its study, which decides its looks."""

    name: str
    position: int
    curve: Curve


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over the axes that all of them have. ``levels``: name -> value of a horizontal line."""

    title: str
    lines: Sequence[Line]
    levels: dict[str, float]

    @property
    def axes(self) -> list[str]:
        """Axes of AXES along which every line advances; steps only where there is no other."""
        shared = [axis for axis in AXES if all(axis in line.curve.axes for line in self.lines)]
        return [axis for axis in shared if axis != "steps"] or shared

    @property
    def frame(self) -> tuple[float, float]:
        """Lowest and highest value shown.

        Of the lines after their first steps, and of levels not far from them.
        """
        highs = [max(line.curve.high[round(len(line.curve.high) * WARMUP) :]) for line in self.lines]
        low, high = min(min(line.curve.low) for line in self.lines), max(highs)
        span = high - low or 0.1
        near = [value for value in self.levels.values() if low - span <= value <= high + span]
        low, high = min(low, *near, low), max(high, *near, high)
        return float(low - 0.05 * span), float(high + 0.05 * span)

    @property
    def outside(self) -> str:
        """Levels that the frame leaves out, in words; empty where there is none."""
        low, high = self.frame
        names = [f"{name} {number(value)}" for name, value in self.levels.items() if not low <= value <= high]
        return f" Outside the frame: {', '.join(names)}." if names else ""

    def draw(self) -> Figure:
        """One panel over the first axis."""
        figure, panels = subplots(1, 1, (9.4, 4.4))
        panel, axis = panels[0, 0], self.axes[0]
        for line in self.lines:
            look = style(line.position) | (
                {"marker": None} if len(line.curve.middle) > 30 else {"markersize": 3}
            )
            x = line.curve.x[axis]
            panel.plot(x, line.curve.middle, label=line.name, linewidth=1.6, **look)
            panel.fill_between(
                x, line.curve.low, line.curve.high, color=colour_of(line.position), alpha=0.2, linewidth=0
            )
        panel.set_xlim(left=0)
        panel.set_ylim(*self.frame)
        for name, value in self.levels.items():
            if self.frame[0] <= value <= self.frame[1]:
                panel.axhline(value, linestyle=":", linewidth=1.2, color="#888888")
                end = (1.01, value)
                panel.annotate(name, end, xycoords=panel.get_yaxis_transform(), va="center", fontsize=9)
        panel.set_xlabel(AXES[axis])
        panel.set_ylabel(self.title)
        prefixed(panel.xaxis)
        figure.legend(loc="outside upper left", ncols=4)
        return figure

    def to_json(self) -> Json:
        """Points for the script of the page."""
        low, high = self.frame
        return {
            "title": self.title,
            "axes": [{"key": axis, "label": AXES[axis]} for axis in self.axes],
            "frame": [low, high],
            "levels": [{"label": name, "value": value} for name, value in self.levels.items()],
            "lines": [self._points(line) for line in self.lines],
        }

    def _points(self, line: Line) -> Json:
        every = slice(None, None, -(-len(line.curve.middle) // POINTS))
        return {
            "label": line.name,
            "color": colour_of(line.position),
            "dash": DASHES[line_style(line.position)],
            "x": {axis: _rounded(line.curve.x[axis][every]) for axis in self.axes},
            "y": _rounded(line.curve.middle[every]),
            "low": _rounded(line.curve.low[every]),
            "high": _rounded(line.curve.high[every]),
        }


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def score_drawings(folder: Path, study: Study) -> list[Drawing]:
    """The first measure on the tune split over training, of each task with curves."""
    caption = (
        "Tune split, mean over the seeds that finished at each arm's chosen learning rate; the band spans "
        "the lowest to the highest seed. The first 3 % of training may lie above the frame."
    )
    drawings = []
    for task in study.tasks:
        levels = {
            b.name: value for b in study.baselines if (value := b.scores.get(task.primary.key)) is not None
        }
        title = f"tune {task.primary.arrow}"
        title = f"{task.name}: {title}" if task.name else title
        chart = _chart(folder, study, task.name, tuned_key(task.primary), title, levels)
        more = " Dotted: baselines, on the held-out split." if levels else ""
        drawings += [_drawing(chart, f"score-{task.name}".strip("-"), caption + more)] if chart else []
    return drawings


def loss_drawings(folder: Path, study: Study) -> list[Drawing]:
    """Training loss of each task with curves."""
    caption = (
        "Training loss, smoothed, mean over the seeds that finished at each arm's chosen learning rate; "
        "band: all seeds."
    )
    drawings = []
    for task in study.tasks:
        title = f"{task.name}: training loss" if task.name else "training loss ↓"
        chart = _chart(folder, study, task.name, TRAIN_LOSS, title, {})
        drawings += [_drawing(chart, f"loss-{task.name}".strip("-"), caption)] if chart else []
    return drawings


def _chart(
    folder: Path, study: Study, task: str, key: str, title: str, levels: dict[str, float]
) -> Chart | None:
    lines = []
    for position, arm in enumerate(study.arms):
        curve = arm_curve(folder, study, arm.name, task, key)
        if curve is not None and len(curve.middle) > 1:
            lines.append(Line(name=arm.name, position=position, curve=curve))
    return Chart(title=title, lines=lines, levels=levels) if lines else None


def _drawing(chart: Chart, name: str, caption: str) -> Drawing:
    return Drawing(name=name, caption=caption + chart.outside, draw=chart.draw, chart=chart)
