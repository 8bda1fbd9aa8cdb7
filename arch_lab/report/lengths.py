"""Scores against sequence length: studies that differ in the length of a sequence, in one figure and two tables.

Each study is one length. Its own report says how it was made; here the same arms stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab import files, units
from arch_lab.judge.records import Interval
from arch_lab.report import figures
from arch_lab.report.figures import INK, style, subplots
from arch_lab.report.section import ARM, STRONG, Cell, Drawing, Section, Table, Value
from arch_lab.report.tables import gap_of, verdict_cell
from arch_lab.study.study import Study
from arch_lab.units import number
from blocks.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHIFT = 0.03  # between neighbouring arms, as a share of the length: intervals do not hide each other
CAPTION = (
    "Held-out split against the tokens of a training window: mean and 95 % interval over the seeds of each arm "
    "at its chosen learning rate. Arms are shifted sideways a little. Dotted: baselines."
)


def write_lengths(studies: Sequence[Study], path: Path) -> Path:
    """Write the figure as one SVG file that stands alone; the same studies give the same bytes.

    Raises: UserError when the studies differ in more than their length, or matplotlib is not installed.
    """
    reason = difference(studies)
    if reason:
        raise UserError(f"--lengths draws studies that differ in their sequence length only: {reason}")
    with figures.looks():
        text = figures.standalone_svg(_draw(_by_length(studies)), "lengths")
    files.write_text(path, text)
    return Path(path)


def length_section(studies: Sequence[Study]) -> Section | None:
    """Figure and tables; None where the studies differ in more than their length."""
    if difference(studies):
        return None
    ordered = _by_length(studies)
    drawing = Drawing(name="lengths", caption=CAPTION, draw=lambda: _draw(ordered))
    tables = (_scores(ordered), _differences(ordered))
    return Section(
        title="Score against sequence length", anchor="lengths", drawings=(drawing,), tables=tables
    )


def difference(studies: Sequence[Study]) -> str:
    """What else two of the studies differ in, or why they are no series of lengths; empty where they are one."""
    if len(studies) < 2:
        return "give two studies or more"
    if any(study.has_tasks or study.sequence_length is None or not study.summary for study in studies):
        return "each needs one task, a sequence length and results"
    for what, value in SAME.items():
        if any(value(study) != value(studies[0]) for study in studies):
            return f"{studies[0].study} and another have different {what}"
    lengths = [study.sequence_length for study in studies]
    repeated = next((length for length in lengths if lengths.count(length) > 1), None)
    return "" if repeated is None else f"two of them have length {repeated}"


def _data(study: Study) -> dict[str, Any]:
    """The data without what counts windows: the same text, or rows drawn by the same options."""
    splits: Mapping[str, Mapping[str, Any]] = study.data.get("splits") or {}
    counts = {name: {k: v for k, v in split.items() if k != "tokens"} for name, split in splits.items()}
    rest = {key: value for key, value in study.data.items() if key not in ("splits", "fingerprint")}
    return {**rest, "splits": counts}


SAME: dict[str, Callable[[Study], object]] = {
    "experiments": lambda study: study.experiment,
    "arms": lambda study: [(arm.name, arm.architecture, arm.options) for arm in study.arms],
    "measures": lambda study: [measure.key for measure in study.measures],
    "objectives": lambda study: study.objective,
    "data": _data,
}


def _by_length(studies: Sequence[Study]) -> list[Study]:
    return sorted(studies, key=_length)


def _length(study: Study) -> int:
    assert study.sequence_length is not None
    return study.sequence_length


# --- figure -------------------------------------------------------------------------------------------------


def _draw(studies: Sequence[Study]) -> Figure:
    figure, axes = subplots(1, 1, (9.4, 4.4))
    panel = axes[0, 0]
    for position, arm in enumerate(studies[0].arms):
        _draw_arm(panel, studies, arm.name, position)
    low, high = _frame(studies)
    for name, values in _levels(studies).items():
        if all(low <= value <= high for value in values):
            panel.plot([_length(s) for s in studies], values, linestyle=":", linewidth=1.4, color=INK)
            panel.annotate(
                name, (1.01, values[-1]), xycoords=panel.get_yaxis_transform(), va="center", fontsize=9
            )
    panel.set_ylim(low, high)
    _length_axis(panel, studies)
    panel.set_ylabel(f"held-out {studies[0].primary.arrow}")
    figure.legend(loc="outside upper left", ncols=5)
    return figure


def _draw_arm(panel: Axes, studies: Sequence[Study], arm: str, position: int) -> None:
    middle = (len(studies[0].arms) - 1) / 2
    points = [(_length(s), score) for s in studies if (score := _score(s, arm)).mean is not None]
    x = [length * (1 + SHIFT) ** (position - middle) for length, _ in points]
    means = [float(score.mean or 0.0) for _, score in points]
    halves = [units.half_width(score) or 0.0 for _, score in points]
    panel.errorbar(x, means, yerr=halves, label=arm, capsize=3, linewidth=1.6, **style(position))


def _length_axis(panel: Axes, studies: Sequence[Study]) -> None:
    """A tick per length, evenly spread where lengths grow by a factor."""
    lengths = [_length(study) for study in studies]
    panel.set_xscale("log")
    panel.set_xticks(lengths, [units.exact(length) for length in lengths])
    panel.set_xticks([], minor=True)
    panel.set_xlabel(f"tokens of a training window{_outside(studies)}")


def _score(study: Study, arm: str) -> Interval:
    standing = study.standing(arm)
    return Interval(mean=None, n=0) if standing is None else standing.scores[study.primary.key]


def _levels(studies: Sequence[Study]) -> dict[str, list[float]]:
    """Baseline -> its score at each length, of those that every study has."""
    key = studies[0].primary.key
    at_each = [{b.name: b.scores[key] for b in s.baselines if b.scores.get(key) is not None} for s in studies]
    shared = [name for name in at_each[0] if all(name in scores for scores in at_each)]
    return {name: [scores[name] for scores in at_each] for name in shared}


def _frame(studies: Sequence[Study]) -> tuple[float, float]:
    """Lowest and highest value shown: of the arms with their intervals, and of baselines not far from them."""
    scores = [_score(study, arm.name) for study in studies for arm in study.arms]
    ends = [
        end for s in scores for end in (s.mean, s.low, s.high) if not units.missing(end) and end is not None
    ]
    if not ends:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    span = high - low or 0.1
    near = [v for values in _levels(studies).values() for v in values if low - span <= v <= high + span]
    return min(low, *near, low) - 0.05 * span, max(high, *near, high) + 0.05 * span


def _outside(studies: Sequence[Study]) -> str:
    """Baselines that the frame leaves out, in words; empty where there is none."""
    low, high = _frame(studies)
    levels = {
        n: values for n, values in _levels(studies).items() if any(not low <= v <= high for v in values)
    }
    words = [f"{name} {number(values[0])}" for name, values in levels.items()]
    return f"; outside: {', '.join(words)}" if words else ""


# --- tables -------------------------------------------------------------------------------------------------


def _scores(studies: Sequence[Study]) -> Table:
    """Every arm at every length, with what its budget bought there."""
    rows: list[list[Value]] = []
    for study in studies:
        for arm in study.arms:
            standing = study.standing(arm.name)
            score = _score(study, arm.name)
            rows.append(
                [
                    units.exact(study.sequence_length),
                    Cell(arm.name, ARM),
                    Cell(units.plus_minus(score), STRONG, score.mean),
                    Cell(units.short(arm.tokens), value=arm.tokens),
                    Cell(units.short(arm.train_flops), value=arm.train_flops),
                    (", ".join(standing.beats) if standing else "") or None,
                ]
            )
    heads = ["length", "arm", studies[0].primary.arrow, "training tokens", "training FLOPs", "beats"]
    note = "mean ± half of the 95 % interval; beats: the baselines outside the whole interval"
    return Table(title="scores at each length", headers=heads, rows=rows, note=note, text_columns=(1, 5))


def _differences(studies: Sequence[Study]) -> Table:
    """Every pair of arms along the lengths."""
    rows: list[list[Value]] = []
    for index, first in enumerate(studies[0].pairs):
        for study in studies:
            pair = study.pairs[index]
            gap = gap_of(pair)
            places = units.decimals(units.half_width(gap))
            rows.append(
                [
                    f"{first.a} − {first.b}",
                    units.exact(study.sequence_length),
                    Cell(units.bounded(gap, places), value=pair.difference),
                    units.number(units.half_width(gap), 2),
                    verdict_cell(pair),
                ]
            )
    heads = ["difference of", "length", "mean [95 % interval]", "detectable", "verdict"]
    note = (
        f"{studies[0].primary.name}, paired by seed, corrected by Holm within a length; detectable: half of the interval, "
        "the smallest difference that these seeds could tell from zero before the correction"
    )
    return Table(
        title="differences at each length", headers=heads, rows=rows, note=note, text_columns=(0, 2, 4)
    )
