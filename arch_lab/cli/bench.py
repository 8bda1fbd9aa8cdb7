"""``arch-lab bench``: speed of the blocks as ratios against named peers, measured here and now."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab.cli.verbs import parser
from arch_lab.memory import keep_memory

if TYPE_CHECKING:  # torch is slow to load, and --help needs none of it
    from arch_lab.bench import Row, Skipped
    from arch_lab.report.section import Table

JSON = "print {environment, rows: [{name, shape, ours_ms, peer, peer_ms, ratio, …}], skipped: [{name, reason}] if any}; "
JSON += "throughput: {environment, results, details: {ratios, crossovers}, verdict, …}"


def main(verb: str, argv: list[str]) -> int:
    p = parser(
        verb,
        "Ratio = peer time / arch-lab time, median of interleaved repeats: above 1 arch-lab is faster. "
        "limits: share of what this machine could do. float32; gemma_gpu, ops_gpu: bf16.",
    )
    suites = (
        "linear, convolution, attention, limits, mixer, gemma, gemma_gpu, ops_gpu, monarch, algorithms, "
        "images, faults, "
        "all of these (default), or throughput: whole architectures against sequence length, minutes, "
        "as arch-lab compare throughput; or step: training steps against those of another checkout"
    )
    p.add_argument("suite", metavar="SUITE", nargs="?", default="all", help=suites)
    p.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: chosen by torch; step: 1)")
    p.add_argument(
        "--against",
        metavar="FOLDER",
        type=Path,
        help="checkout of another commit, which step is timed against",
    )
    p.add_argument("--json", action="store_true", help=JSON)
    p.add_argument("--markdown", metavar="FILE", type=Path, help="also write the rows as a Markdown table")
    given = p.parse_args(argv)
    if (given.suite == "step") != (given.against is not None):
        p.error(
            "--against FOLDER names a checkout of another commit for the suite step; give both or neither"
        )
    if given.suite == "throughput":
        keep_memory()  # before torch is imported
        return throughput(given)

    from arch_lab import files
    from arch_lab.bench import Row, Skipped, StepRow, run_suite, steps_against
    from arch_lab.console import console, say
    from arch_lab.study.environment import environment
    from arch_lab.study.estimate import set_threads

    set_threads(given.threads)
    notes, rows, skipped = console(stderr=True), list[Row](), list[Skipped]()
    suite: Iterator[Row | Skipped] = (
        run_suite(given.suite)
        if given.against is None
        else steps_against(given.against, threads=given.threads or 1)
    )
    for row in suite:
        if not isinstance(row, Row):
            skipped.append(row)
            say(notes, f"{row.name}: skipped, {row.reason}")
            continue
        rows.append(row)
        say(notes, (f"{row.name} ({row.shape}): {row.ratio:.2f} x {row.peer}", "dim"))
        if isinstance(row, StepRow):
            say(notes, (row.equality, "dim"))
    if not rows:
        return 2  # every reason has been said
    if given.markdown is not None:
        files.write_text(given.markdown, markdown(rows, skipped))
    if given.json:
        printed: dict[str, Any] = {"environment": environment(), "rows": [asdict(row) for row in rows]}
        if skipped:
            printed["skipped"] = [asdict(each) for each in skipped]
        print(json.dumps(printed, indent=2))
        return 0
    for table in tables(rows):
        console().print(table)
    return 0


def tables(rows: Sequence[Row]) -> Iterator[str | Table]:
    """Ratios against peers, then shares of the machine's limit under the rates they refer to."""
    from arch_lab.bench.limits import ShareRow
    from arch_lab.report.section import Table

    shares = [r for r in rows if isinstance(r, ShareRow)]
    ratios = [r for r in rows if not isinstance(r, ShareRow)]
    if ratios:
        heads = ["what", "shape", "ours, ms", "peer", "peer, ms", "ratio [quartiles]"]
        yield Table(headers=heads, rows=[cells(r) for r in ratios], text_columns=(0, 1, 3))
    if shares:
        heads = [
            "what",
            "shape",
            "ours, ms",
            "limit",
            "limit, ms",
            "share of the machine's limit [quartiles]",
        ]
        yield Table(headers=heads, rows=[cells(r) for r in shares], text_columns=(0, 1, 3))
        yield shares[0].rates.text


def cells(r: Row) -> list[str]:
    ratio = f"{r.ratio:.2f} [{r.ratio_low:.2f}, {r.ratio_high:.2f}]"
    return [r.name, r.shape, f"{r.ours_ms:.2f}", r.peer, f"{r.peer_ms:.2f}", ratio]


def markdown(rows: list[Row], skipped: list[Skipped]) -> str:
    """One line a row; where rows carry them, the share of the measured roof and what both sides held in memory."""
    from arch_lab.bench.cold import ColdRow

    lines = [
        "| what | shape | peer | ours, ms | peer, ms | ratio [quartiles] | share of roof | peak memory, ours / peer |",
        "|---" * 8 + "|",
    ]
    for r in rows:
        extra = ["", ""]
        if isinstance(r, ColdRow):
            extra = [
                f"{r.share_of_roof:.0%} of {r.roof}",
                f"{r.ours_peak_bytes / 2**20:.0f} / {r.peer_peak_bytes / 2**20:.0f} MiB",
            ]
        ratio = f"{r.ratio:.2f} [{r.ratio_low:.2f}, {r.ratio_high:.2f}]"
        columns = [r.name, r.shape, r.peer, f"{r.ours_ms:.3f}", f"{r.peer_ms:.3f}", ratio, *extra]
        lines.append("| " + " | ".join(columns) + " |")
    lines += [f"\nNot measured: {each.name}: {each.reason}" for each in skipped]
    return "\n".join(lines) + "\n"


def throughput(given: Namespace) -> int:
    """The study of that name, cells of an earlier call kept."""
    from arch_lab.cli.workflow import compare

    result = compare("throughput", threads=given.threads, quiet=given.json)
    if given.json:
        print(json.dumps(result.to_json(), indent=2))
    return 0
