"""The figures of a throughput study: speed, ratios with their crossovers, memory; arms look as in every report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arch_lab.judge.crossover import CROSSES
from arch_lab.report.figures import INK, style, subplots
from arch_lab.throughput.results import LEVELS, MODES
from arch_lab.throughput.timing import MEASURED
from arch_lab.units import memory as bytes_words
from arch_lab.units import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Study = Mapping[str, Any]


def build(study: Study) -> dict[str, Figure]:
    """Every figure the study has numbers for; to be called inside ``figures.looks()``."""
    made = {"speed": speed(study), "ratios": ratio_panels(study), "memory": memory(study)}
    return {name: drawn for name, drawn in made.items() if drawn is not None}


def speed(study: Study) -> Figure | None:
    from matplotlib.ticker import LogLocator

    modes = [m for m in MODES if _rows(study, "model", m)]
    if not modes:
        return None
    drawn, axes = subplots(1, len(modes), (3.3 * len(modes) + 0.6, 3.9))
    for panel, mode in zip(axes[0], modes, strict=True):
        for i, arm in enumerate(study["arms"]):
            rows = [r for r in _rows(study, "model", mode) if r["arm"] == arm["name"]]
            good = [r for r in rows if r["status"] == MEASURED]
            panel.plot(
                [r["tokens"] for r in good],
                [r["tokens_per_second"] for r in good],
                label=arm["name"],
                linewidth=1.6,
                **style(i),
            )
            lost = [r["tokens"] for r in rows if r["status"] != MEASURED]
            shift = 0.03 + 0.04 * i  # one above the other, so that crosses do not hide each other
            panel.plot(
                lost,
                [shift] * len(lost),
                transform=panel.get_xaxis_transform(),
                linestyle="",
                marker="x",
                color=style(i)["color"],
            )
        panel.set_yscale("log")
        _lengths(panel, study)
        panel.set_title(mode)
        _ticks(panel, short)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0, 0].set_ylabel("tokens per second")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
    return drawn


def ratio_panels(study: Study) -> Figure | None:
    pairs = [r for r in study["ratios"] if not r["compiled"]] or list(study["ratios"])
    modes = [m for m in MODES if any(r["mode"] == m for r in pairs)]
    levels = [lv for lv in LEVELS if any(r["level"] == lv for r in pairs)]
    if not pairs:
        return None
    drawn, axes = subplots(
        len(levels), len(modes), (3.1 * len(modes) + 0.6, 2.6 * len(levels) + 0.6), sharex=True
    )
    names = [arm["name"] for arm in study["arms"]]
    compiled = pairs[0]["compiled"]
    for i, level in enumerate(levels):
        for j, mode in enumerate(modes):
            panel, here = axes[i, j], [r for r in pairs if (r["level"], r["mode"]) == (level, mode)]
            if not here:
                panel.set_visible(False)
                continue
            panel.axhline(1, color=INK, linewidth=1)
            for peer in dict.fromkeys(r["peer"] for r in here):
                look = style(names.index(peer))
                points = sorted((r for r in here if r["peer"] == peer), key=lambda r: r["tokens"])
                x, middle, low, high = (
                    [p[key] for p in points] for key in ("tokens", "ratio", "ratio_low", "ratio_high")
                )
                panel.plot(x, middle, label=f"{peer} / {study['subject']}", linewidth=1.6, **look)
                panel.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)
                ring = {
                    "marker": "o",
                    "markersize": 11,
                    "markerfacecolor": "none",
                    "markeredgecolor": look["color"],
                    "markeredgewidth": 2,
                }
                for c in study["crossovers"]:
                    if (c["level"], c["mode"], c["peer"], c["compiled"], c["where"]) == (
                        level,
                        mode,
                        peer,
                        compiled,
                        CROSSES,
                    ):
                        panel.plot(c["tokens"], 1, **ring)
            panel.set_yscale("log", base=2)
            _lengths(panel, study)
            _ticks(panel, lambda value: f"{value:g}")
            panel.set_title(f"{level}, {mode}")
            panel.set_xlabel("tokens of a sequence" if i == len(levels) - 1 else "")
    axes[len(levels) // 2, 0].set_ylabel(f"time ratio (above 1: {study['subject']} is faster)")
    first = next(panel for panel in axes.flat if panel.get_visible())
    drawn.legend(*first.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return drawn


def memory(study: Study) -> Figure | None:
    shown = [(m, "peak_bytes", f"peak of a {m}") for m in ("forward", "step", "prefill")] + [
        ("decode", "state_bytes", "decoding state")
    ]
    shown = [s for s in shown if any(r[s[1]] for r in _rows(study, "model", s[0]))]
    if not shown:
        return None
    drawn, axes = subplots(1, len(shown), (3.3 * len(shown) + 0.6, 3.6))
    for panel, (mode, key, title) in zip(axes[0], shown, strict=True):
        for i, arm in enumerate(study["arms"]):
            good = [r for r in _rows(study, "model", mode) if r["arm"] == arm["name"] and r[key]]
            panel.plot(
                [r["tokens"] for r in good],
                [r[key] for r in good],
                label=arm["name"],
                linewidth=1.6,
                **style(i),
            )
        panel.set_yscale("log", base=2)
        _lengths(panel, study)
        _ticks(panel, bytes_words)
        panel.set_title(title)
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=6)
    return drawn


def _rows(study: Study, level: str, mode: str) -> list[Mapping[str, Any]]:
    """Eager rows in order of length; compiled ones where a study has no others."""
    found = [r for r in study["rows"] if (r["level"], r["mode"]) == (level, mode)]
    eager = [r for r in found if not r["compiled"]]
    return sorted(eager or found, key=lambda r: r["tokens"])


def _lengths(panel: Axes, study: Study) -> None:
    lengths: Sequence[int] = sorted({r["tokens"] for r in study["rows"]})
    panel.set_xscale("log", base=2)
    panel.set_xticks(lengths, [_k(t) for t in lengths], fontsize=8)
    panel.minorticks_off()
    panel.set_xlabel("tokens of a sequence")


def _k(tokens: int) -> str:
    return f"{tokens // 1024}K" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)


def _ticks(panel: Axes, words: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    panel.yaxis.set_minor_formatter(NullFormatter())
