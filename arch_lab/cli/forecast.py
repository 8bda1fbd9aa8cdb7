"""``arch-lab forecast``: what a study's laws say at larger budgets, written down before anything trains there."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from arch_lab.cli.verbs import parser

if TYPE_CHECKING:
    from arch_lab.judge.forecast import Forecast
    from arch_lab.report.section import Table, Value

EXAMPLES = """examples:
  arch-lab forecast runs/frontier
  arch-lab forecast runs/frontier --flops 5e13 --output frontier_forecast.json
  arch-lab forecast runs/frontier --json

A later study tests it: forecast: frontier_forecast.json in its file, and those budgets in budget.train_flops."""


def main(verb: str, argv: list[str]) -> int:
    options = _options(verb, argv)
    from arch_lab.report import load
    from arch_lab.study.forecast import forecast_of, write_forecast

    made = forecast_of(load(options.folder), options.flops)
    if options.json:
        print(json.dumps(made.to_json(), indent=2, ensure_ascii=False))
        return 0
    path = options.output or options.folder / "forecast.json"
    checksum = write_forecast(path, made)
    from arch_lab.console import console, say

    screen = console()
    for table in tables(made):
        table.show(screen)
    say(screen)
    say(screen, f"forecast:     {path}")
    say(screen, f"checksum:     {checksum}")
    return 0


def _options(verb: str, argv: list[str]) -> Namespace:
    p = parser(verb, EXAMPLES)
    p.add_argument("folder", metavar="RUNDIR", type=Path, help="folder of a study with sizes and budgets")
    p.add_argument(
        "--flops",
        metavar="FLOPS",
        type=float,
        nargs="+",
        default=[],
        help="budgets beyond the largest that was trained (default: 3 and 10 times that)",
    )
    p.add_argument(
        "--output", metavar="FILE", type=Path, help="file to write (default: RUNDIR/forecast.json)"
    )
    p.add_argument("--json", action="store_true", help="print the forecast and write nothing")
    return p.parse_args(argv)


def tables(made: Forecast) -> list[Table]:
    """Losses and differences of a forecast."""
    from arch_lab import units
    from arch_lab.report.frontier import band_text, size_text
    from arch_lab.report.section import ARM, Cell, Table

    losses: list[list[Value]] = [
        [
            Cell(units.short(one.flops, "FLOP"), value=one.flops),
            Cell(one.arm, ARM),
            "shared" if one.tied else "own",
            band_text(one.loss),
            size_text(one.size),
        ]
        for one in made.expected
    ]
    differences: list[list[Value]] = [
        [
            Cell(units.short(one.flops, "FLOP"), value=one.flops),
            f"{one.a} − {one.b}",
            "shared" if one.tied else "own",
            band_text(one.difference),
            f"{max(one.share, 1 - one.share):.0%}",
        ]
        for one in made.differences
    ]
    note = "E is shared by the arms, or each arm's own; 95 % bands over resampled trunks"
    signs = "share: of the resamples with the sign of the estimate"
    return [
        Table(
            title="forecast",
            headers=["budget", "arm", "E is", made.measure, "best n_eff"],
            rows=losses,
            note=note,
            text_columns=(1, 2),
        ),
        Table(
            title="forecast of differences",
            headers=["budget", "difference of", "E is", made.measure, "share"],
            rows=differences,
            note=signs,
            text_columns=(1, 2),
        ),
    ]
