"""Sections of a study with sizes: the fitted frontier, forecast against outcome, and recall against tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from arch_lab import files, units
from arch_lab.judge.forecast import TARGET, Outcomes
from arch_lab.judge.frontier import Band, Crossover
from arch_lab.judge.intervals import mean_interval
from arch_lab.judge.slices import Fitted, Slices
from arch_lab.judge.where import splits_of
from arch_lab.report.figures import INK, looks, standalone_svg, style, subplots
from arch_lab.report.section import ARM, BAD, GOOD, STRONG, Cell, Drawing, Section, Table, Value
from arch_lab.report.slices import draw_slices, position_of, slice_section, tuning_sections
from arch_lab.study.judged_sizes import FORECAST, SLICES, times
from arch_lab.study.study import Study
from blocks.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVE = 80  # points of a fitted line


def frontier_sections(study: Study) -> list[Section]:
    """Empty for a study without sizes."""
    if SLICES not in study.details:
        return []
    slices = Slices.from_json(study.details[SLICES])
    sections = [_frontier(study, slices)] if slices.fits else []
    tested = [_forecast(Outcomes.from_json(study.details[FORECAST]))] if FORECAST in study.details else []
    return [
        *sections,
        *tested,
        slice_section(study, slices),
        *tuning_sections(study, slices),
        *_recall(study, slices),
    ]


def write_frontier(study: Study, path: Path) -> Path:
    """Write the frontier, or the slices of a study without laws, as one SVG file; the same study gives the same bytes.

    Raises: UserError for a study without sizes, or when matplotlib is not installed.
    """
    if SLICES not in study.details:
        raise UserError(f"--frontier draws studies with sizes (budget.sizes), and {study.study} has none")
    slices = Slices.from_json(study.details[SLICES])
    draw = _draw_frontier if slices.fits else draw_slices
    with looks():
        text = standalone_svg(draw(study, slices), "frontier")
    files.write_text(path, text)
    return Path(path)


def _frontier(study: Study, slices: Slices) -> Section:
    caption = (
        "The frontier of each arm: held-out score at its best size against training FLOPs. Points: mean over seeds with its "
        "95 % interval. Lines: the fitted law at its best size (E shared by the arms), bars: its band over resampled trunks."
    )
    figure = Drawing(name="frontier", caption=caption, draw=lambda: _draw_frontier(study, slices))
    tables = [_reach_table(study, fit) for fit in slices.fits]
    tables += [_ratio_table(slices), _law_table(slices), _crossover_table(study, slices)]
    text = (
        "L(N, D) = E + A·N^−α + B·D^−β, N = n_eff, D tokens. A claim needs both fits: with E shared by the arms, and with an E "
        "of its own for each.",
    )
    return Section(title="Frontier", anchor="frontier", drawings=(figure,), tables=tables, text=text)


def _draw_frontier(study: Study, slices: Slices) -> Figure:
    figure, axes = subplots(1, 1, (9.4, 4.8))
    panel = axes[0, 0]
    fit = slices.fits[0]
    budgets = sorted({one.flops for one in slices.slices})
    line = np.geomspace(budgets[0], budgets[-1], CURVE)
    for arm in fit.laws:
        position = position_of(study, arm)
        looks = style(position)
        points = []
        for one in slices.of(arm):
            standing = study.standing(arm, one.task)
            if standing is not None and (score := standing.scores[study.primary.key]).mean is not None:
                points.append((one.flops, score.mean, units.half_width(score) or 0.0))
        x, y, error = zip(*points, strict=True) if points else ((), (), ())
        panel.errorbar(x, y, yerr=error, label=arm, capsize=3, **{**looks, "linestyle": ""})
        panel.plot(
            line,
            [fit.laws[arm].best_loss(c) for c in line],
            color=looks["color"],
            linestyle=looks["linestyle"],
            linewidth=1.6,
        )
        reaches = [reach for reach in fit.reaches if reach.arm == arm]
        low, high = (
            [np.nan if v is None else v for v in side]
            for side in zip(*((r.loss.low, r.loss.high) for r in reaches), strict=True)
        )
        panel.fill_between(
            [r.flops for r in reaches], low, high, color=looks["color"], alpha=0.15, linewidth=0
        )
    _draw_baselines(panel, study)
    panel.set_xscale("log")
    panel.set_xticks(budgets, [units.short(c, "FLOP") for c in budgets])
    panel.minorticks_off()
    panel.set_xlabel("training FLOPs")
    panel.set_ylabel(f"held-out {study.primary.arrow}")
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def _draw_baselines(panel: Axes, study: Study) -> None:
    """Baselines within the range of the arms, as dotted lines."""
    low, high = panel.get_ylim()
    for baseline in study.baselines:
        value = baseline.scores.get(study.primary.key)
        if value is not None and low <= value <= high:
            panel.axhline(value, linestyle=":", linewidth=1.4, color=INK)
            panel.annotate(
                baseline.name, (1.01, value), xycoords=panel.get_yaxis_transform(), va="center", fontsize=9
            )


def _reach_table(study: Study, fit: Fitted) -> Table:
    rows: list[list[Value]] = []
    for reach in fit.reaches:
        rows.append(
            [
                Cell(units.short(reach.flops, "FLOP"), value=reach.flops),
                Cell(reach.arm, ARM),
                Cell(band_text(reach.loss), value=reach.loss.estimate),
                Cell(size_text(reach.size), value=reach.size.estimate),
            ]
        )
    heads = ["budget", "arm", f"{study.primary.name} of the law", "size optimum (n_eff)"]
    shared = "E shared by the arms" if fit.tied else "each arm with an E of its own"
    note = f"{shared}; 95 % bands over resampled trunks"
    return Table(title=f"frontier, {shared}", headers=heads, rows=rows, note=note, text_columns=(1,))


def _ratio_table(slices: Slices) -> Table:
    rows: list[list[Value]] = []
    fits = {fit.tied: fit for fit in slices.fits}
    for reach in slices.fits[0].reaches:
        if reach.ratio is None:
            continue
        row: list[Value] = [Cell(units.short(reach.flops, "FLOP"), value=reach.flops), Cell(reach.arm, ARM)]
        for tied in (True, False):
            fit = fits.get(tied)
            other = (
                next((r for r in fit.reaches if (r.arm, r.flops) == (reach.arm, reach.flops)), None)
                if fit
                else None
            )
            band = None if other is None else other.ratio
            row.append(units.DASH if band is None else Cell(times(band), value=band.estimate))
        rows.append(row)
    heads = ["budget", "arm", "E shared", "E of its own"]
    note = (
        f"FLOPs that {slices.reference} needs for the same score, as a multiple of the budget, with its 95 % band; above 1: "
        f"the arm needs less compute than {slices.reference}"
    )
    return Table(title="equal-loss compute ratio", headers=heads, rows=rows, note=note, text_columns=(1,))


def _law_table(slices: Slices) -> Table:
    rows: list[list[Value]] = []
    for fit in slices.fits:
        for arm, law in fit.laws.items():
            numbers = [law.E, law.A, law.alpha, law.B, law.beta, law.size_exponent]
            rows.append(
                [Cell(arm, ARM), "shared" if fit.tied else "own", *(units.number(n, 3) for n in numbers)]
            )
    heads = ["arm", "E is", "E", "A", "α", "B", "β", "best n_eff ~ C^"]
    return Table(title="laws", headers=heads, rows=rows, text_columns=(0, 1))


def _crossover_table(study: Study, slices: Slices) -> Table:
    rows: list[list[Value]] = []
    for fit in slices.fits:
        for pair, crossing in fit.crossovers.items():
            rows.append([pair, "shared" if fit.tied else "own", _crosses(crossing)])
    low, high = (units.short(c, "FLOP") for c in (study.budgets[0], study.budgets[-1]))
    note = f"between {low} and {high}; in brackets 95 % of the resamples that cross, and how many of all do"
    heads = ["frontiers of", "E is", "cross at"]
    return Table(title="crossovers", headers=heads, rows=rows, note=note, text_columns=(0, 1, 2))


def _crosses(one: Crossover) -> str:
    share = f"{one.share:.0%} of the resamples cross"
    if one.flops is None:
        return f"nowhere ({share})"
    bounds = (
        ""
        if one.low is None or one.high is None
        else (f" [{units.short(one.low, 'FLOP')}, {units.short(one.high, 'FLOP')}]")
    )
    return f"{units.short(one.flops, 'FLOP')}{bounds} ({share})"


def band_text(band: Band) -> str:
    """'2.412 [2.401, 2.425]'."""
    width = None if band.low is None or band.high is None else (band.high - band.low) / 2
    places = units.decimals(width)
    estimate, low, high = (
        "∞" if value is None else f"{value:.{places}f}" for value in (band.estimate, band.low, band.high)
    )
    return f"{estimate} [{low}, {high}]"


def size_text(band: Band) -> str:
    """'64k [52k, 81k]'."""
    return f"{units.short(band.estimate)} [{units.short(band.low)}, {units.short(band.high)}]"


def _forecast(result: Outcomes) -> Section:
    """Forecast against outcome."""
    rows: list[list[Value]] = []
    for one in result.arms:
        met = Cell("✓" if one.is_met else "✗", GOOD if one.is_met else BAD)
        rows.append(
            [
                Cell(units.short(one.flops, "FLOP"), value=one.flops),
                Cell(one.arm, ARM),
                "shared" if one.tied else "own",
                Cell(band_text(one.forecast), value=one.forecast.estimate),
                Cell(units.number(one.measured), STRONG, one.measured),
                Cell(units.percent(one.error), value=one.error),
                met,
            ]
        )
    heads = ["budget", "arm", "E is", "forecast", "outcome", "error", "met"]
    note = f"met: inside the 95 % band and within {TARGET:.1%}"
    arms = Table(title="forecast against outcome", headers=heads, rows=rows, note=note, text_columns=(1, 2))
    signs: list[list[Value]] = [
        [
            Cell(units.short(one.flops, "FLOP"), value=one.flops),
            f"{one.a} − {one.b}",
            "shared" if one.tied else "own",
            f"{one.expected} ({one.share:.0%})",
            one.measured or "not distinguishable",
        ]
        for one in result.signs
    ]
    pairs = Table(
        title="forecast of the better arm",
        headers=["budget", "pair", "E is", "forecast (share of resamples)", "outcome"],
        rows=signs,
        text_columns=(1, 2, 3, 4),
    )
    text = (
        f"Written on {result.created} from study {result.source}, before anything was trained at these budgets; "
        f"checksum {result.checksum}.",
    )
    return Section(title="Forecast against outcome", anchor="forecast", text=text, tables=(arms, pairs))


def _recall(study: Study, slices: Slices) -> list[Section]:
    """Loss on recall tokens against training tokens, where a study has several budgets."""
    if not study.has_tasks:
        return []
    rows: list[list[Value]] = []
    share = None
    for one in slices.slices:
        reported = study.records(arm=one.arm, task=one.task, reported=True)
        splits = splits_of(reported).get(one.arm, {})
        if not splits or not all(split.is_enough for split in splits.values()):
            continue
        share = next(iter(splits.values()))
        recall, rest = (
            mean_interval([v for s in splits.values() if (v := getattr(s, key)) is not None])
            for key in ("recall_bits", "rest_bits")
        )
        tokens = one.points[one.best].tokens
        rows.append(
            [
                one.task,
                Cell(one.arm, ARM),
                Cell(units.short(tokens), value=tokens),
                units.plus_minus(recall),
                units.plus_minus(rest),
            ]
        )
    if share is None:
        return []
    heads = ["budget", "arm", "training tokens", "recall tokens", "the rest"]
    note = (
        f"held-out bits per token at the best size, mean ± half of the 95 % interval; recall tokens: {share.recall_tokens:,} "
        f"({share.share:.1%}), second tokens of bigrams seen before in the window and at most {share.at_most:,} times in training"
    )
    table = Table(
        title="recall against tokens seen", headers=heads, rows=rows, note=note, text_columns=(0, 1)
    )
    return [Section(title="Recall against tokens seen", anchor="recall-tokens", tables=(table,))]
