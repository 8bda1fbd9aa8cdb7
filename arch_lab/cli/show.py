"""``arch-lab show``: one run folder, finished or not, or several side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from arch_lab.cli.verbs import UsageError, nearest, parser

if TYPE_CHECKING:
    from rich.console import Console

    from arch_lab.report.section import Table, Value
    from arch_lab.study.overview import RunFolder
    from arch_lab.study.study import Study

EXAMPLES = """examples:
  arch-lab show runs/quickstart
  arch-lab show runs/quickstart more/quickstart
  arch-lab show runs/quickstart --json

A finished study: verdict and result table.
An unfinished one: what is done, what is missing, the command that continues it."""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, EXAMPLES)
    p.add_argument(
        "folders", metavar="RUNS", nargs="+", type=Path, help="folder of a study, for example runs/quickstart"
    )
    p.add_argument(
        "--json",
        action="store_true",
        help="print a list of {folder, study, state, done, planned, verdict, resume, …}",
    )
    options = p.parse_args(argv)
    runs = [_open(folder) for folder in options.folders]
    if options.json:
        print(json.dumps([run.to_json() for run in runs], indent=2, ensure_ascii=False))
        return 0
    from arch_lab.console import console

    if len(runs) == 1:
        _show_one(runs[0], console())
    else:
        _side_by_side(runs, console())
    return 0


def _open(folder: Path) -> RunFolder:
    from arch_lab.study.overview import is_run, open_run, run_folders

    if is_run(folder):
        return open_run(folder)
    studies = run_folders(folder) if folder.is_dir() else []
    if studies:
        names = ", ".join(run.folder for run in studies[:5])
        raise UsageError(f"show: {folder} holds several studies; name one of {names}")
    others = [path.name for path in folder.parent.iterdir() if is_run(path)] if folder.parent.is_dir() else []
    what = "is not the folder of a study (it has no plan.json)" if folder.is_dir() else "does not exist"
    raise UsageError(f"show: {folder} {what}{nearest(folder.name, others)} (arch-lab list runs shows all)")


def _show_one(run: RunFolder, out: Console) -> None:
    from arch_lab.console import say, show_verdict
    from arch_lab.report.section import Table

    lost = f", {run.diverged} diverged" if run.diverged else ""
    say(out, (run.study, "bold"), f": {run.state}, {run.progress} trials{lost}, last change {run.when}")
    if run.state == "finished":
        table = _results(_read(run))
        if table is not None:
            table.show(out)
        show_verdict(out, [run.verdict])
        return
    if run.reason:
        say(out, ("refused: " if run.state == "refused" else "", "red"), run.reason)
    if run.by_arm:
        Table(headers=["arm", "trials ended"], rows=list(run.by_arm.items())).show(out)
    if run.planned is not None and not run.verdict:
        say(out, f"missing: {max(0, run.planned - run.done)} of {run.planned} trials, and the verdict")
    if run.state != "running":
        say(out, f"continue with: {run.resume}", whole=True)


def _read(run: RunFolder) -> Study:
    from arch_lab.study.study import read_study

    return read_study(Path(run.folder))


def _results(study: Study) -> Table | None:
    """The first table of a study's results.

    None where its experiment, which would make it, is not trusted.
    """
    from arch_lab.report import tables
    from arch_lab.report.markdown import shown_tables
    from blocks.errors import UserError
    from blocks.registry import import_only

    if study.summary:
        return tables.results(study)
    try:
        with import_only([]):
            return next(iter(shown_tables(study)), None)
    except UserError:
        return None


def _side_by_side(runs: list[RunFolder], out: Console) -> None:
    from arch_lab.console import say
    from arch_lab.report.section import Table

    heads = ["folder", "arm", "state", "trials", "score", "learning rate"]
    rows = [row for run in runs for row in _rows(run)]
    out.print(Table(headers=heads, rows=rows, text_columns=(0, 1, 2), drop=("learning rate", "trials")))
    for run in runs:
        say(out)
        say(out, (run.folder, "bold"), f": {run.verdict or run.reason or run.state}")


def _rows(run: RunFolder) -> list[list[Value]]:
    """One row per arm of a finished study of one task, else one for the folder."""
    from arch_lab import units

    study = _read(run) if run.state == "finished" else None
    if study is None or study.has_tasks or not study.summary:
        return [[run.folder, None, run.state, run.progress, None, None]]
    primary = study.primary
    scores = [(s, f"{units.plus_minus(s.scores[primary.key])} {primary.name}") for s in study.summary]
    return [
        [run.folder, s.arm, run.state, run.by_arm.get(s.arm, 0), score, units.rate(s.learning_rate)]
        for s, score in scores
    ]
