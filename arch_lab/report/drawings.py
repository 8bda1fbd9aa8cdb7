"""Figures of a study: paired differences, learning rates, components, speed, scores on tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arch_lab.judge.measures import Task
from arch_lab.judge.records import Pair, Standing, is_finite
from arch_lab.report.figures import (
    ARM_MARKERS,
    INK,
    PAGE,
    colour_of,
    horizontal_bars,
    prefixed,
    style,
    subplots,
)
from arch_lab.report.section import Drawing
from arch_lab.study.plan import Component, PlannedArm
from arch_lab.study.study import Study
from arch_lab.units import rate, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
COUNTS = {"parameters": "parameters", "flops_per_token": "FLOPs per token"}
SMALLEST = 0.005  # share of a component that a bar can show
MEBIBYTE = 2**20


def positions(study: Study) -> dict[str, int]:
    """Arm -> its position in the study, which decides its looks."""
    return {arm.name: position for position, arm in enumerate(study.arms)}


# --- paired differences -------------------------------------------------------------------------------------


def differences(study: Study) -> Drawing | None:
    """Forest plot of the pairs of a study of one task."""
    pairs = [pair for pair in study.pairs if is_finite(pair.difference)]
    if not pairs or study.has_tasks:
        return None
    caption = (
        "Each pair of arms at equal seeds: diamond = mean difference, bar = 95 % interval, dots = seeds. "
        "Filled: distinguishable (Holm-corrected when there are several pairs). Hollow: not, or too few "
        "seeds."
    )
    return Drawing(name="differences", caption=caption, draw=lambda: _forest(study, pairs))


def _forest(study: Study, pairs: list[Pair]) -> Figure:
    height = 0.5 if len(pairs) <= 10 else 0.32
    figure, axes = subplots(1, 1, (9.4, 1.0 + height * len(pairs)))
    panel = axes[0, 0]
    panel.axvline(0, color=INK, linewidth=1)
    for row, pair in enumerate(pairs):
        _forest_row(panel, row, pair, positions(study))
    horizontal_bars(panel, [f"{pair.a} − {pair.b}" for pair in pairs])
    panel.margins(x=0.12)
    direction = "above" if study.primary.higher_is_better else "below"
    panel.set_xlabel(f"difference in {study.primary.name} ({direction} 0: the first named is better)")
    return figure


def _forest_row(panel: Axes, row: int, pair: Pair, order: dict[str, int]) -> None:
    colour = colour_of(order[pair.better]) if pair.better else INK
    if pair.low is not None and pair.high is not None:
        panel.plot([pair.low, pair.high], [row, row], color=colour, linewidth=2, marker="|", markersize=10)
    dots: Any = {"linestyle": "", "marker": ".", "color": colour, "alpha": 0.6}
    panel.plot(pair.differences, [row + 0.22] * len(pair.differences), **dots)
    fill = colour if pair.better else PAGE
    panel.plot(
        float(pair.difference or 0.0), row, marker="D", markersize=8, color=colour, markerfacecolor=fill
    )
    word = (
        f"{pair.better} better"
        if pair.better
        else "not distinguishable"
        if pair.low is not None
        else "no verdict"
    )
    panel.annotate(word, (1.01, row), xycoords=panel.get_yaxis_transform(), va="center", fontsize=9)


# --- learning rates -----------------------------------------------------------------------------------------


def sensitivity(study: Study) -> Drawing | None:
    """The tuning score against the learning rate, in a study of one task."""
    scores = [r.tuning_score for r in study.results if r.tuning_score is not None and r.learning_rate]
    if study.has_tasks or not scores:
        return None
    caption = (
        "Tuning score at the end for every learning rate: dots are seeds, the line their mean, the ring "
        "marks the chosen rate. A cross at the top counts the seeds that diverged there. Arms are shifted "
        "sideways a little so that they do not hide each other."
    )
    return Drawing(name="sensitivity", caption=caption, draw=lambda: _sensitivity(study, scores))


def _sensitivity(study: Study, scores: list[float]) -> Figure:
    figure, axes = subplots(1, 1, (9.4, 3.9))
    panel = axes[0, 0]
    rates = sorted({r.learning_rate for r in study.results if r.learning_rate})
    step = float(np.min(np.diff(np.log2(rates)))) if len(rates) > 1 else 1.0
    for i, arm in enumerate(study.arms):
        shift = 2 ** (step * 0.12 * (i - (len(study.arms) - 1) / 2))  # so that crosses and dots do not hide
        _rates_of_arm(panel, study, arm, i, shift)
    _frame_rates(panel, scores, higher_is_better=study.primary.higher_is_better)
    panel.set_xscale("log", base=2)
    panel.set_xticks(rates, [rate(x) for x in rates])
    panel.minorticks_off()
    panel.set_xlabel("learning rate (log scale)")
    panel.set_ylabel(f"tuning {study.primary.name} at the end")
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def _frame_rates(panel: Axes, scores: list[float], *, higher_is_better: bool) -> None:
    """Room for the crosses on top; one bad rate does not flatten the rest."""
    low, high = min(scores), max(scores)
    middle = float(np.median(scores))
    if not higher_is_better:
        high = min(high, low + 6 * (middle - low)) if middle > low else high
    else:
        low = max(low, high - 6 * (high - middle)) if middle < high else low
    span = high - low or 1.0
    panel.set_ylim(low - 0.06 * span, high + 0.3 * span)


def _rates_of_arm(panel: Axes, study: Study, arm: PlannedArm, position: int, shift: float) -> None:
    colour, means = colour_of(position), []
    choice = study.selected(arm.name)
    size = None if choice is None else choice.size  # of the sizes of an arm the chosen one
    records = [r for r in study.records(arm=arm.name) if r.learning_rate and r.size == size]
    for x in sorted({r.learning_rate for r in records if r.learning_rate}):
        tried = [r for r in records if r.learning_rate == x]
        scores = [r.tuning_score for r in tried if r.tuning_score is not None]
        dots: Any = {
            "linestyle": "",
            "marker": ARM_MARKERS[position % len(ARM_MARKERS)],
            "color": colour,
            "alpha": 0.45,
            "markersize": 4,
        }
        panel.plot([x * shift] * len(scores), scores, **dots)
        if len(scores) < len(tried):
            _lost(panel, x * shift, len(tried) - len(scores), len(tried), colour)
        if scores:
            means.append((x * shift, float(np.mean(scores))))
            if any(study.is_reported(r) for r in tried):
                ring: Any = {
                    "markersize": 15,
                    "markerfacecolor": "none",
                    "markeredgecolor": colour,
                    "markeredgewidth": 2,
                }
                panel.plot(*means[-1], marker="o", **ring)
    panel.plot([m[0] for m in means], [m[1] for m in means], label=arm.name, linewidth=1.6, **style(position))


def _lost(panel: Axes, x: float, lost: int, trials: int, colour: str) -> None:
    over = panel.get_xaxis_transform()
    panel.plot([x], [0.96], transform=over, marker="x", color=colour, markersize=8, markeredgewidth=2)
    panel.annotate(f"{lost}/{trials}", (x, 0.9), xycoords=over, ha="center", fontsize=8)


# --- components and speed -----------------------------------------------------------------------------------


def components(study: Study) -> Drawing | None:
    """Where the parameters and the FLOPs are.

    One stacked bar per arm; the smallest parts are pooled as 'other'.
    """
    if not any(arm.components for arm in study.arms):
        return None
    caption = (
        "Where parameters and training FLOPs go, by part of the model. Parts that share weights are "
        "counted once."
    )
    return Drawing(name="components", caption=caption, draw=lambda: _components(study))


def _count(component: Component, key: str) -> float:
    return float(getattr(component, key))


def _components(study: Study) -> Figure:
    arms = [arm for arm in study.arms if arm.components]
    names, drawn_names = _largest(arms)
    figure, axes = subplots(1, 2, (11, 1.3 + 0.5 * len(arms)), sharey=True)
    for panel, (key, label) in zip(axes[0], COUNTS.items(), strict=True):
        left = np.zeros(len(arms))
        for colour, name in zip(COMPONENT_COLOURS, names, strict=False):
            sizes = np.array([_size(arm, name, key, drawn_names) for arm in arms])
            look = {"color": colour, "edgecolor": "white", "linewidth": 0.8, "height": 0.62}
            panel.barh(range(len(arms)), sizes, left=left, label=name, **look)
            left += sizes
        for row, total in enumerate(left):
            _beside(panel, float(total), row, short(float(total)))
        horizontal_bars(panel, [arm.name for arm in arms])
        panel.set_xlim(0, float(left.max()) * 1.12 or 1)
        panel.set_xlabel(label)
        prefixed(panel.xaxis)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=5)
    return figure


def _largest(arms: list[PlannedArm]) -> tuple[list[str], set[str]]:
    """(names of the bars in model order, the components that have one of their own)."""
    shares: dict[str, float] = {}
    for arm in arms:
        for key in COUNTS:
            total = sum(_count(c, key) for c in arm.components) or 1.0
            for c in arm.components:
                shares[c.name] = max(shares.get(c.name, 0.0), _count(c, key) / total)
    visible = [name for name in sorted(shares, key=lambda n: -shares[n]) if shares[name] >= SMALLEST]
    drawn_names = set(visible[: len(COMPONENT_COLOURS) - 1])
    return [name for name in shares if name in drawn_names] + (
        ["other"] if len(shares) > len(drawn_names) else []
    ), drawn_names


def _size(arm: PlannedArm, name: str, key: str, drawn_names: set[str]) -> float:
    return sum(
        _count(c, key) for c in arm.components if (c.name if c.name in drawn_names else "other") == name
    )


def _beside(panel: Axes, x: float, row: int, text: str) -> None:
    panel.annotate(text, (x, row), xytext=(7, 0), textcoords="offset points", va="center", fontsize=9)


def speed(study: Study) -> Drawing | None:
    """Training throughput and peak memory at the chosen learning rate: bars are the mean, ticks the seeds."""
    if study.has_tasks or not any(r.tokens_per_second for r in study.records(reported=True)):
        return None
    caption = "Measured on the machine named below at the chosen learning rate: bar = mean, ticks = seeds."
    return Drawing(name="speed", caption=caption, draw=lambda: _speed(study))


def _speed(study: Study) -> Figure:
    figure, axes = subplots(1, 2, (11, 0.9 + 0.45 * len(study.arms)), sharey=True)
    labels = (
        "training tokens per second (longer is faster)",
        "peak memory while training, MiB (shorter is smaller)",
    )
    for panel, key, label in zip(axes[0], ("tokens_per_second", "peak_memory_bytes"), labels, strict=True):
        top = 0.0
        for row, arm in enumerate(study.arms):
            values = _speeds(study, arm.name, key)
            if values:
                mean, top = float(np.mean(values)), max(top, *values)
                panel.barh(row, mean, color=colour_of(row), height=0.6, alpha=0.8)
                panel.plot(values, [row] * len(values), linestyle="", marker="|", markersize=9, color=INK)
                _beside(panel, max(values), row, short(mean))
        panel.set_xlim(0, top * 1.2 or 1)
        horizontal_bars(panel, [arm.name for arm in study.arms])
        panel.set_xlabel(label)
        prefixed(panel.xaxis)
    return figure


def _speeds(study: Study, arm: str, key: str) -> list[float]:
    scale = MEBIBYTE if key == "peak_memory_bytes" else 1
    finished = [r for r in study.records(arm=arm, reported=True) if r.score(study.primary.key) is not None]
    return [getattr(r, key) / scale for r in finished if is_finite(getattr(r, key))]


# --- scores on tasks ----------------------------------------------------------------------------------------


def scores(study: Study) -> Drawing | None:
    """A panel per task, a line per arm."""
    if not study.has_tasks or not study.summary:
        return None
    caption = (
        "First measure of each task: diamond = mean over seeds, bar = 95 % interval, dots = seeds. "
        "Baselines are hollow, with dotted lines across."
    )
    return Drawing(name="scores", caption=caption, draw=lambda: _scores(study), file="scores.png")


def _scores(study: Study) -> Figure:
    across = min(3, len(study.tasks))
    down = -(-len(study.tasks) // across)
    names = [arm.name for arm in study.arms]
    figure, axes = subplots(down, across, (3.4 * across + 0.8, (0.24 * len(names) + 0.9) * down + 0.3))
    for panel in axes.flat[len(study.tasks) :]:
        panel.set_visible(False)
    for i, task in enumerate(study.tasks):
        panel = axes.flat[i]
        for standing in study.summary:
            if standing.task == task.name:
                _score_row(panel, study, task, standing)
        panel.set_yticks(range(len(names)), names if i % across == 0 else [""] * len(names))
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_title(f"{task.name}: {task.primary.arrow}")
    return figure


def _score_row(panel: Axes, study: Study, task: Task, standing: Standing) -> None:
    row, score = positions(study)[standing.arm], standing.scores[task.primary.key]
    colour: Any = colour_of(row)
    if score.mean is None:
        return
    if standing.baseline:
        panel.axvline(score.mean, color=colour, linestyle=":", linewidth=1)
    if score.low is not None and score.high is not None:
        panel.plot([score.low, score.high], [row, row], color=colour, linewidth=2)
    values = [
        r.score(task.primary.key) for r in study.records(arm=standing.arm, task=task.name, reported=True)
    ]
    dots = [value for value in values if value is not None]
    panel.plot(dots, [row] * len(dots), linestyle="", marker=".", color=colour, markersize=4)
    fill = "none" if standing.baseline else colour
    panel.plot(score.mean, row, marker="D", color=colour, markerfacecolor=fill, markersize=6)
