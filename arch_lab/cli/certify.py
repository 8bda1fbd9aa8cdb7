"""``arch-lab certify``: the seven laws on one block, or on every registered one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from arch_lab.cli.verbs import UsageError, parser

if TYPE_CHECKING:
    from arch_lab.laws import BlockReport
    from arch_lab.laws.result import Share

TEXT = """Exit code 0 when every law that applies holds, 1 when one fails, 2 when the block cannot be found or configured.
For a failing law the smallest failing input is shown: shape, pair of positions (t, s), size of the leak.
Small configurations are derived from the block's options; a block can give its own in a classmethod law_cases(), and
say why a law does not apply in a class attribute not_applicable = {"law": "reason"}."""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, TEXT)
    p.add_argument("block", nargs="?", metavar="BLOCK", help="a registered name, or the import path package.module:Class")
    p.add_argument("--all", action="store_true", help="every registered block, installed packages' included; a table block by law")
    p.add_argument(
        "--json",
        action="store_true",
        help="print {block, kind, passed, cases, laws: [{law, status, reason, share, value, bound, unit, example, notes}]}",
    )
    p.add_argument("--markdown", action="store_true", help="print the page docs/laws.md (with --all)")
    given = p.parse_args(argv)
    if given.all == (given.block is not None):
        raise UsageError(f"{verb}: give one block or --all (arch-lab blocks lists the names)")
    if given.markdown and (given.json or not given.all):
        raise UsageError(f"{verb}: --markdown goes with --all, and not with --json")

    from arch_lab.console import console, progress
    from arch_lab.laws import certify_block, entry_of
    from blocks.registry import entries

    chosen = entries() if given.all else [entry_of(given.block)]
    reports = []
    with progress(quiet=not given.all) as bar:
        task = bar.add_task("laws", total=len(chosen))
        for entry in chosen:
            bar.update(task, description=entry.name)
            reports.append(certify_block(entry))
            bar.advance(task)
    if given.json:
        found = [report.to_dict() for report in reports]
        print(json.dumps(found if given.all else found[0], indent=2, ensure_ascii=False))
    elif given.markdown:
        from arch_lab.laws.coverage import markdown

        print(markdown(reports), end="")
    elif given.all:
        _overview(reports)
    else:
        _one(reports[0])
    if not given.json and not given.markdown:
        broken = [report.block for report in reports if not report.passed]
        say = console().print
        say(f"{', '.join(broken)}: broken" if broken else "every law that applies holds", markup=False, soft_wrap=True)
    return int(any(not report.passed for report in reports))


def _one(report: BlockReport) -> None:
    from arch_lab.console import console, table

    words = {"passed": "passed", "failed": "FAILED", "not_applicable": "n/a"}
    rows = [[r.law, words[r.status], *_numbers(r.share), "\n".join([*filter(None, [r.text]), *r.notes])] for r in report.laws]
    failed = sum(r.status == "failed" for r in report.laws)
    verdict = f"{failed} of {len(report.laws)} laws broken" if failed else "no law broken"
    out = console()
    columns = ["law", "status", "share", "value", "bound", "smallest failing example, or reason"]
    out.print(table(columns, rows, title=f"{report.block} ({report.kind.replace('_', ' ')}): {verdict}"))
    out.print("share: worst deviation divided by its bound; the law holds below 1 (docs/laws.md has the units)", soft_wrap=True)
    names = "; ".join(report.cases)
    out.print(f"configurations ({len(report.cases)}): {names}", markup=False, soft_wrap=True, highlight=False)


def _numbers(share: Share | None) -> list[str]:
    """Share, value and bound as text; nothing where a law states yes or no."""
    if share is None:
        return ["", "", ""]
    part = f"{share:.2g}" if share < 10 else f"{float(share):.0e}"
    return ["over" if share == float("inf") else part, f"{share.value:.1e}" if share.value else "0", f"{share.bound:g}"]


def _overview(reports: Sequence[BlockReport]) -> None:
    from arch_lab.console import console, table
    from arch_lab.laws import LAWS

    signs = {"passed": "holds", "failed": "FAILED", "not_applicable": "n/a"}
    rows = [[report.block, *(signs[r.status] for r in report.laws)] for report in reports]
    out = console()
    out.print(table(["block", *LAWS], rows))
    for report in reports:
        for result in report.laws:
            if result.status == "failed":
                out.print(f"{report.block}: {result.law}: {result.text}", markup=False, soft_wrap=True)
    reasons = sorted({result.reason for report in reports for result in report.laws if result.status == "not_applicable"})
    for reason in reasons:
        out.print(f"n/a: {reason}", markup=False, soft_wrap=True)
