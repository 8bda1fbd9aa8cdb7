"""Draws docs/figures/wikitext2.svg from the result table of experiments/perplexity/README.md.

Run from the checkout: .venv/bin/python docs/figures/draw_wikitext2.py. A test fails when the figure is out of date.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[2]
FIGURE = ROOT / "docs" / "figures" / "wikitext2.svg"
ARM = re.compile(r"\| (\w+) \| \*\*([\d.]+)\*\* \[([\d.]+), ([\d.]+)\] \|")
BASELINE = re.compile(r"\| (unigram|bigram|trigram) \| ([\d.]+) \|")
COLORS = {"m2_gpt": "#0072B2", "gemma3": "#D55E00", "gemma2": "#CC79A7"}


def draw(file: Path = FIGURE) -> None:
    """Bits per byte of each arm with its 95 % interval, and the n-gram baselines as lines."""
    text = (ROOT / "experiments" / "perplexity" / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- wikitext2:begin -->")[2].partition("<!-- wikitext2:end -->")[0]
    arms = [(name, float(mean), float(low), float(high)) for name, mean, low, high in ARM.findall(table)]
    with plt.rc_context(
        {"svg.hashsalt": "arch-lab", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
    ):
        figure, axes = plt.subplots(figsize=(7.2, 2.1), layout="constrained")
        for row, (name, mean, low, high) in enumerate(reversed(arms)):
            axes.plot([low, high], [row, row], color=COLORS[name], linewidth=3, solid_capstyle="butt")
            axes.plot([mean], [row], "o", color=COLORS[name], markersize=8)
            axes.annotate(f"{mean:.3f}", (high, row), xytext=(8, 0), textcoords="offset points", va="center")
        for name, value in BASELINE.findall(table):
            if name != "unigram":  # 3.24, far to the right
                axes.axvline(float(value), color="#777777", linestyle="--", linewidth=1)
                axes.annotate(
                    name,
                    (float(value), len(arms) - 0.45),
                    ha="center",
                    color="#555555",
                    annotation_clip=False,
                )
        axes.set_yticks(range(len(arms)), [name for name, *_ in reversed(arms)])
        axes.set_ylim(-0.6, len(arms) - 0.5)
        axes.set_xlabel("held-out bits per byte on WikiText-2, 1M parameters, 6 TFLOP (lower is better)")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    draw()
