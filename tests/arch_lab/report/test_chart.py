"""Charts: the points a page embeds, the frame, and which axes there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from arch_lab.report import load
from arch_lab.report.chart import Chart, Line
from arch_lab.report.curves import AXES, Curve
from arch_lab.report.page import write_page


def curve(values: list[float], **axes: list[float]) -> Curve:
    x = {axis: np.array(axes.get(axis, [0.0] * len(values))) for axis in AXES}
    y = np.array(values)
    return Curve(x, y, y - 0.1, y + 0.1)


def chart(*curves: Curve, levels: dict[str, float] | None = None) -> Chart:
    lines = [Line(name=f"arm {i}", position=i, curve=c) for i, c in enumerate(curves)]
    return Chart(title="score", lines=lines, levels=levels or {})


def test_steps_are_the_axis_where_there_is_no_other() -> None:
    assert chart(curve([2, 1], steps=[1, 2])).axes == ["steps"]
    assert chart(curve([2, 1], steps=[1, 2], tokens=[8, 16])).axes == ["tokens"]


def test_an_axis_that_one_arm_lacks_is_not_offered() -> None:
    full, half = curve([2, 1], tokens=[8, 16], seconds=[1, 2]), curve([2, 1], tokens=[8, 16])
    assert chart(full, half).axes == ["tokens"]


def test_a_far_baseline_is_named_below_and_does_not_flatten_the_curves() -> None:
    drawn = chart(curve([2, 1], tokens=[8, 16]), levels={"bigram": 1.5, "unigram": 40.0})
    low, high = drawn.frame
    assert low < 0.9 and 2.1 <= high < 3 and drawn.outside == " Outside the frame: unigram 40.00."


def test_the_page_embeds_the_points_of_every_arm(folders: dict[str, Path]) -> None:
    folder = folders["ordinary"]
    text = write_page(folder, load(folder)).read_text(encoding="utf-8")
    embedded = [
        json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', text)
    ]
    assert [data["title"] for data in embedded] == ["tune bits per byte ↓", "training loss ↓"]
    for data in embedded:
        assert [axis["key"] for axis in data["axes"]] == ["tokens", "flops", "seconds"]
        assert [line["label"] for line in data["lines"]] == ["gemma3", "m2_gpt"]
        for line in data["lines"]:
            assert len(line["y"]) == len(line["low"]) == len(line["x"]["tokens"]) <= 200
            assert all(
                low <= y <= high for low, y, high in zip(line["low"], line["y"], line["high"], strict=True)
            )


def test_every_chart_is_drawn_without_javascript(folders: dict[str, Path]) -> None:
    folder = folders["ordinary"]
    text = write_page(folder, load(folder)).read_text(encoding="utf-8")
    charts = re.findall(r'<figure class="chart">(.*?)</figure>', text, flags=re.S)
    assert len(charts) == 2 and all("<svg" in found.partition("<script")[0] for found in charts)
