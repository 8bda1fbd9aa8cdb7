"""``arch-lab list``: the studies that can be compared, and what stands in the run folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arch_lab.cli.verbs import UsageError, nearest, parser
from arch_lab.stored import Facts, Json

if TYPE_CHECKING:
    from arch_lab.study.overview import RunFolder

WHAT = ("studies", "runs")
EXAMPLES = """examples:
  arch-lab list
  arch-lab list studies
  arch-lab list runs --output runs --json

States of a run folder: running, finished, interrupted (the same compare continues it),
refused (an arm failed its certificate), damaged, outdated (another version of arch-lab wrote it)."""


@dataclass(frozen=True)
class Listed:
    """A study file."""

    name: str
    path: str
    question: str
    experiment: str
    arms: list[str]
    budget: Facts


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
    studies = _studies() if options.what in (None, "studies") else None
    runs = _runs(options.output) if options.what in (None, "runs") else None
    if options.json:
        content = _content(studies, runs)
        print(
            json.dumps(
                content if options.what is None else content[options.what], indent=2, ensure_ascii=False
            )
        )
        return 0
    if studies is not None:
        _show_studies(studies)
    if runs is not None:
        _show_runs(runs, options.output)
    return 0


def _content(studies: Sequence[Listed] | None, runs: Sequence[RunFolder] | None) -> Json:
    listed = {} if studies is None else {"studies": [asdict(study) for study in studies]}
    ended = {} if runs is None else {"runs": [{**run.to_json(), "progress": run.progress} for run in runs]}
    return {**listed, **ended}


def _studies() -> list[Listed]:
    from arch_lab.study.library import study_contents, summary

    listed = []
    for name, (path, content) in study_contents().items():
        arms = [
            arm.get("name", arm.get("architecture")) if isinstance(arm, dict) else arm
            for arm in content.get("arms") or []
        ]
        experiment = str(content.get("experiment", "perplexity"))
        listed.append(
            Listed(
                name,
                str(path),
                summary(content),
                experiment,
                list(map(str, arms)),
                content.get("budget") or {},
            )
        )
    return listed


def _runs(root: Path) -> list[RunFolder]:
    from arch_lab.study.overview import run_folders

    return run_folders(root)


def _show_studies(studies: Sequence[Listed]) -> None:
    from arch_lab.console import console
    from arch_lab.report.section import Table
    from arch_lab.units import budget_words

    rows = []
    for study in studies:
        numbers = {key: value for key, value in study.budget.items() if isinstance(value, (int, float, str))}
        rows.append(
            [
                study.name,
                study.question,
                ", ".join(study.arms) or None,
                budget_words(numbers) if numbers else None,
            ]
        )
    heads, title = ["study", "question", "arms", "budget"], "studies (arch-lab compare NAME)"
    console().print(
        Table(title=title, headers=heads, rows=rows, text_columns=range(4), drop=("budget", "arms"))
    )


def _show_runs(runs: Sequence[RunFolder], root: Path) -> None:
    from arch_lab.console import console, say
    from arch_lab.report.section import Table
    from arch_lab.report.wording import short_verdict

    out = console()
    say(out)
    if not runs:
        say(out, f"no runs in {root}; arch-lab compare writes there (--output names another folder)")
        return
    verdicts = [short_verdict(run.verdict, run.by_arm) or run.reason for run in runs]
    facts = [[run.folder, run.study, run.state, run.progress, run.when] for run in runs]
    rows = [[*row, verdict] for row, verdict in zip(facts, verdicts, strict=True)]
    heads, title = (
        ["folder", "study", "state", "trials", "last change", "verdict"],
        "runs (arch-lab show FOLDER)",
    )
    drop = ("study", "last change", "verdict")
    out.print(Table(title=title, headers=heads, rows=rows, text_columns=(0, 1, 2, 5), drop=drop))
