"""The figures of a throughput study: speed, ratios with their crossovers, memory.

Arms look as in every report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from arch_lab.judge.crossover import CROSSES, Ratio
from arch_lab.report.figures import INK, style, subplots
from arch_lab.units import memory as memory_words
from arch_lab.units import short
from experiments.throughput.config import LEVELS, MODES
from experiments.throughput.results import Results
from experiments.throughput.timing import Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Look = dict[str, Any]  # arguments of matplotlib
LINE: Look = {"linewidth": 1.6}
# mode -> which bytes a panel of the memory figure shows, and its title
MEMORY: dict[str, tuple[Callable[[Timing], int | None], str]] = {
    "forward": (lambda timing: timing.peak_bytes, "peak of a forward"),
    "step": (lambda timing: timing.peak_bytes, "peak of a step"),
    "prefill": (lambda timing: timing.peak_bytes, "peak of a prefill"),
    "decode": (lambda timing: timing.state_bytes, "decoding state"),
}


def modes_of_models(results: Results) -> list[str]:
    """Modes with timings of whole models: panels of the figure of speed."""
    return [mode for mode in MODES if results.of_models(mode)]


def modes_with_memory(results: Results) -> list[str]:
    """Modes with bytes of whole models: panels of the figure of memory."""
    return [
        mode for mode, (bytes_of, _) in MEMORY.items() if any(bytes_of(t) for t in results.of_models(mode))
    ]


# --- speed ------------------------------------------------------------------------------------------------


def speed_figure(results: Results) -> Figure:
    """Tokens per second of whole models: a panel per mode, a line per arm."""
    from matplotlib.ticker import LogLocator

    modes = modes_of_models(results)
    figure, axes = subplots(1, len(modes), (3.3 * len(modes) + 0.6, 3.9))
    for panel, mode in zip(axes[0], modes, strict=True):
        for i, name in enumerate(results.names):
            _speed_line(panel, i, name, [t for t in results.of_models(mode) if t.arm == name])
        panel.set_yscale("log")
        _length_axis(panel, results)
        panel.set_title(mode)
        _tick_words(panel, short)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0, 0].set_ylabel("tokens per second")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
    return figure


def _speed_line(panel: Axes, i: int, name: str, timings: Sequence[Timing]) -> None:
    """The line of arm ``i``; a cross at the bottom where it was not measured."""
    measured = [t for t in timings if t.is_measured]
    lost = [t.tokens for t in timings if not t.is_measured]
    speeds = [t.tokens_per_second for t in measured]
    panel.plot([t.tokens for t in measured], speeds, label=name, **LINE, **style(i))  # type: ignore[arg-type]
    height = 0.03 + 0.04 * i  # one above the other, so that crosses do not hide each other
    look = {"linestyle": "", "marker": "x", "color": style(i)["color"]}
    panel.plot(lost, [height] * len(lost), transform=panel.get_xaxis_transform(), **look)


# --- ratios -----------------------------------------------------------------------------------------------


def ratio_figure(results: Results) -> Figure:
    """Time of each peer / time of the subject: a row per level, a column per mode, a line per peer."""
    ratios = [pair for pair in results.details.ratios if not pair.compiled] or results.details.ratios
    modes = [mode for mode in MODES if any(pair.mode == mode for pair in ratios)]
    levels = [level for level in LEVELS if any(pair.level == level for pair in ratios)]
    size = (3.1 * len(modes) + 0.6, 2.6 * len(levels) + 0.6)
    figure, axes = subplots(len(levels), len(modes), size, sharex=True)
    for i, level in enumerate(levels):
        for panel, mode in zip(axes[i], modes, strict=True):
            pairs = [pair for pair in ratios if (pair.level, pair.mode) == (level, mode)]
            panel.set_visible(bool(pairs))
            if pairs:
                _ratio_panel(panel, results, pairs)
                panel.set_title(f"{level}, {mode}")
                panel.set_xlabel("tokens of a sequence" if level == levels[-1] else "")
    subject = results.settings.subject
    axes[len(levels) // 2, 0].set_ylabel(f"time ratio (above 1: {subject} is faster)")
    first = next(panel for panel in axes.flat if panel.get_visible())
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def _ratio_panel(panel: Axes, results: Results, pairs: Sequence[Ratio]) -> None:
    """``pairs``: of one series."""
    panel.axhline(1, color=INK, linewidth=1)
    for peer in dict.fromkeys(pair.peer for pair in pairs):
        look = style(results.names.index(peer))
        points = sorted((pair for pair in pairs if pair.peer == peer), key=lambda pair: pair.tokens)
        lengths = [pair.tokens for pair in points]
        label = f"{peer} / {results.settings.subject}"
        panel.plot(lengths, [pair.ratio for pair in points], label=label, **LINE, **look)
        low, high = [pair.ratio_low for pair in points], [pair.ratio_high for pair in points]
        panel.fill_between(lengths, low, high, color=look["color"], alpha=0.2, linewidth=0)
        for tokens in _crossings(results, points[0]):
            panel.plot(tokens, 1, **_ring(look["color"]))
    panel.set_yscale("log", base=2)
    _length_axis(panel, results)
    _tick_words(panel, lambda value: f"{value:g}")


def _crossings(results: Results, pair: Ratio) -> Iterator[float]:
    """The length at which a pair of this series crosses 1."""
    for crossover in results.details.crossovers:
        same = crossover.series == pair.series and crossover.peer == pair.peer
        if same and crossover.where == CROSSES and crossover.tokens is not None:
            yield crossover.tokens


def _ring(color: str) -> Look:
    return {
        "marker": "o",
        "markersize": 11,
        "markerfacecolor": "none",
        "markeredgecolor": color,
        "markeredgewidth": 2,
    }


# --- memory -----------------------------------------------------------------------------------------------


def memory_figure(results: Results) -> Figure:
    """Bytes of whole models: a panel per mode, a line per arm."""
    modes = modes_with_memory(results)
    figure, axes = subplots(1, len(modes), (3.3 * len(modes) + 0.6, 3.6))
    for panel, mode in zip(axes[0], modes, strict=True):
        bytes_of, title = MEMORY[mode]
        for i, name in enumerate(results.names):
            timings = [t for t in results.of_models(mode) if t.arm == name and bytes_of(t)]
            heights = [bytes_of(t) for t in timings]
            panel.plot([t.tokens for t in timings], heights, label=name, **LINE, **style(i))
        panel.set_yscale("log", base=2)
        _length_axis(panel, results)
        _tick_words(panel, memory_words)
        panel.set_title(title)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
    return figure


# --- axes -------------------------------------------------------------------------------------------------


def _length_axis(panel: Axes, results: Results) -> None:
    lengths = sorted({timing.tokens for timing in results.timings})
    panel.set_xscale("log", base=2)
    panel.set_xticks(lengths, [_length_words(tokens) for tokens in lengths], fontsize=8)
    panel.minorticks_off()
    panel.set_xlabel("tokens of a sequence")


def _length_words(tokens: int) -> str:
    return f"{tokens // 1024}K" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)


def _tick_words(panel: Axes, words: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    panel.yaxis.set_minor_formatter(NullFormatter())
