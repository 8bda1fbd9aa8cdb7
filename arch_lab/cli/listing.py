"""``arch-lab list``: the studies that can be compared, and what stands in the run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arch_lab.cli.verbs import UsageError, nearest, parser

WHAT = ("studies", "runs")
EXAMPLES = """examples:
  arch-lab list
  arch-lab list studies
  arch-lab list runs --output runs --json

States of a run folder: running, finished, interrupted (the same compare continues it), refused (an arm failed its certificate), damaged."""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, EXAMPLES)
    p.add_argument("what", metavar="studies|runs", nargs="?", help="only these (default: both)")
    p.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("runs"),
        help="folder to look for runs in (default: runs)",
    )
    p.add_argument(
        "--json",
        action="store_true",
        help="print {studies: [...], runs: [...]}, or the list of the kind named",
    )
    options = p.parse_args(argv)
    if options.what not in (None, *WHAT):
        raise UsageError(
            f"list: unknown kind {options.what!r}{nearest(options.what, WHAT)} (studies or runs)"
        )
    kinds = WHAT if options.what is None else (options.what,)
    listed = {kind: _studies() if kind == "studies" else _runs(options.output) for kind in kinds}
    if options.json:
        print(
            json.dumps(listed if options.what is None else listed[options.what], indent=2, ensure_ascii=False)
        )
        return 0
    if "studies" in listed:
        _show_studies(listed["studies"])
    if "runs" in listed:
        _show_runs(listed["runs"], options.output)
    return 0


def _studies() -> list[dict[str, Any]]:
    from arch_lab.study.library import load_study_file, studies, summary

    rows = []
    for name, path in studies().items():
        content = load_study_file(path)
        arms = [
            str(arm.get("name", arm.get("architecture")) if isinstance(arm, dict) else arm)
            for arm in content.get("arms") or []
        ]
        row = {
            "name": name,
            "path": str(path),
            "question": summary(content),
            "experiment": str(content.get("experiment", "perplexity")),
        }
        rows.append({**row, "arms": arms, "budget": content.get("budget") or {}})
    return rows


def _runs(root: Path) -> list[dict[str, Any]]:
    from arch_lab.study.overview import run_folders

    return [run.to_json() | {"progress": run.progress} for run in run_folders(root)]


def _show_studies(studies: list[dict[str, Any]]) -> None:
    from arch_lab.console import console, table
    from arch_lab.units import budget_words

    rows = []
    for study in studies:
        numbers = {
            key: value for key, value in study["budget"].items() if isinstance(value, (int, float, str))
        }
        rows.append(
            [
                study["name"],
                study["question"],
                ", ".join(study["arms"]) or "-",
                budget_words(numbers) if numbers else "-",
            ]
        )
    columns = ["study", "question", "arms", "budget"]
    console().print(table(columns, rows, title="studies (arch-lab compare NAME)", drop=("budget", "arms")))


def _show_runs(runs: list[dict[str, Any]], root: Path) -> None:
    from arch_lab.console import console, say, table

    out = console()
    say(out)
    if not runs:
        say(out, f"no runs in {root}; arch-lab compare writes there (--output names another folder)")
        return
    rows = [
        [
            run["folder"],
            run["study"],
            run["state"],
            run["progress"],
            run["when"],
            run["verdict"] or run["reason"],
        ]
        for run in runs
    ]
    columns = ["folder", "study", "state", "trials", "last change", "verdict"]
    out.print(
        table(
            columns,
            rows,
            title="runs (arch-lab show FOLDER)",
            numeric=columns[3:5],
            drop=("study", "last change", "verdict"),
        )
    )
