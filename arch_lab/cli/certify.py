"""``arch-lab certify``: the seven laws on one block, or on every registered one."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arch_lab.cli.verbs import UsageError, parser

if TYPE_CHECKING:
    from arch_lab.laws import BlockReport
    from arch_lab.laws.result import Share
    from blocks.registry import Entry

TEXT = """Exit code 0 when every law that applies holds, 1 when one fails, 2 when the block cannot be found or
configured. For a failing law the smallest failing input is shown: shape, pair of positions (t, s), size of
the leak.
Small configurations are derived from the block's options; a block can give its own in a classmethod
law_cases(), and say why a law does not apply in a class attribute not_applicable = {"law": "reason"}."""


def main(verb: str, argv: list[str]) -> int:
    options = _parse(verb, argv)

    from arch_lab.laws import entry_of
    from blocks.registry import entries

    reports = _reports(entries() if options.all else [entry_of(options.block)], quiet=not options.all)
    broken = [report.block for report in reports if not report.passed]
    if options.json:
        records = [report.to_dict() for report in reports]
        print(json.dumps(records if options.all else records[0], indent=2, ensure_ascii=False))
    elif options.markdown:
        from arch_lab.laws.coverage import markdown

        print(markdown(reports), end="")
    else:
        from arch_lab.console import console

        _overview(reports) if options.all else _one(reports[0])
        verdict = f"{', '.join(broken)}: broken" if broken else "every law that applies holds"
        console().print(verdict, markup=False, soft_wrap=True)
    return int(bool(broken))


def _parse(verb: str, argv: list[str]) -> Namespace:
    """Raises: UsageError for options that exclude each other."""
    p = parser(verb, TEXT)
    block_help = "a registered name, or the import path package.module:Class"
    p.add_argument("block", nargs="?", metavar="BLOCK", help=block_help)
    all_help = "every registered block, installed packages' included; a table block by law"
    p.add_argument("--all", action="store_true", help=all_help)
    law = "{law, status, reason, share, value, bound, unit, example, notes}"
    json_help = f"print {{block, kind, passed, cases, laws: [{law}]}}"
    p.add_argument("--json", action="store_true", help=json_help)
    p.add_argument("--markdown", action="store_true", help="print the page docs/laws.md (with --all)")
    options = p.parse_args(argv)
    if options.all == (options.block is not None):
        raise UsageError(f"{verb}: give one block or --all (arch-lab blocks lists the names)")
    if options.markdown and (options.json or not options.all):
        raise UsageError(f"{verb}: --markdown goes with --all, and not with --json")
    return options


def _reports(entries: Sequence[Entry], *, quiet: bool) -> list[BlockReport]:
    from arch_lab.console import progress
    from arch_lab.laws import certify_block

    reports = []
    with progress(quiet=quiet) as bar:
        task = bar.add_task("laws", total=len(entries))
        for entry in entries:
            bar.update(task, description=entry.name)
            reports.append(certify_block(entry))
            bar.advance(task)
    return reports


def _one(report: BlockReport) -> None:
    from arch_lab.console import console
    from arch_lab.report.section import Table

    words = {"passed": "passed", "failed": "FAILED", "not_applicable": "n/a"}
    rows = []
    for r in report.laws:
        details = "\n".join([*filter(None, [r.text]), *r.notes])
        rows.append([r.law, words[r.status], *_numbers(r.share), details])
    failed = sum(r.status == "failed" for r in report.laws)
    verdict = f"{failed} of {len(report.laws)} laws broken" if failed else "no law broken"
    out = console()
    columns = ["law", "status", "share", "value", "bound", "smallest failing example, or reason"]
    title = f"{report.block} ({report.kind.replace('_', ' ')}): {verdict}"
    out.print(Table(title=title, headers=columns, rows=rows, text_columns=range(len(columns))))
    legend = "share: worst deviation divided by its bound; the law holds below 1 (docs/laws.md has the units)"
    out.print(legend, soft_wrap=True)
    names = "; ".join(report.cases)
    configurations = f"configurations ({len(report.cases)}): {names}"
    out.print(configurations, markup=False, soft_wrap=True, highlight=False)


def _numbers(share: Share | None) -> list[str]:
    """Share, value and bound as text; nothing where a law states yes or no."""
    if share is None:
        return ["", "", ""]
    text = f"{share:.2g}" if share < 10 else f"{float(share):.0e}"
    value = f"{share.value:.1e}" if share.value else "0"
    return ["over" if share == float("inf") else text, value, f"{share.bound:g}"]


def _overview(reports: Sequence[BlockReport]) -> None:
    from arch_lab.console import console
    from arch_lab.laws import LAWS
    from arch_lab.report.section import Table

    signs = {"passed": "holds", "failed": "FAILED", "not_applicable": "n/a"}
    rows = [[report.block, *(signs[r.status] for r in report.laws)] for report in reports]
    out = console()
    out.print(Table(headers=["block", *LAWS], rows=rows, text_columns=range(len(LAWS) + 1)))
    results = [(report.block, result) for report in reports for result in report.laws]
    for block, result in results:
        if result.status == "failed":
            out.print(f"{block}: {result.law}: {result.text}", markup=False, soft_wrap=True)
    for reason in sorted({result.reason for _, result in results if result.status == "not_applicable"}):
        out.print(f"n/a: {reason}", markup=False, soft_wrap=True)
