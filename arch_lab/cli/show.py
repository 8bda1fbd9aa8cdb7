"""``arch-lab show``: one run folder, finished or not, or several side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab.cli.verbs import UsageError, nearest, parser
from arch_lab.yaml_files import load_json

if TYPE_CHECKING:
    from rich.console import Console

    from arch_lab.study.overview import RunFolder

EXAMPLES = """examples:
  arch-lab show runs/quickstart
  arch-lab show runs/quickstart more/quickstart
  arch-lab show runs/quickstart --json

A finished study: verdict and result table. An unfinished one: what is done, what is missing, the command that continues it."""


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
    inside = run_folders(folder) if folder.is_dir() else []
    if inside:
        raise UsageError(
            f"show: {folder} holds several studies; name one of {', '.join(run.folder for run in inside[:5])}"
        )
    near = (
        nearest(folder.name, [path.name for path in folder.parent.iterdir() if is_run(path)])
        if folder.parent.is_dir()
        else ""
    )
    what = "is not the folder of a study (it has no plan.json)" if folder.is_dir() else "does not exist"
    raise UsageError(f"show: {folder} {what}{near} (arch-lab list runs shows all)")


def _show_one(run: RunFolder, out: Console) -> None:
    from arch_lab.console import say, show_verdict, table

    lost = f", {run.diverged} diverged" if run.diverged else ""
    say(out, (run.study, "bold"), f": {run.state}, {run.progress} trials{lost}, last change {run.when}")
    if run.state == "finished":
        _results(Path(run.folder), out)
        show_verdict(out, run.verdict)
        return
    if run.reason:
        say(out, ("refused: ", "red"), run.reason)
    if run.by_arm:
        say(out)
        out.print(
            table(
                ["arm", "trials ended"],
                [[name, count] for name, count in run.by_arm.items()],
                numeric=["trials ended"],
            )
        )
    if run.planned is not None:
        say(out, f"missing: {max(0, run.planned - run.done)} of {run.planned} trials, and the verdict")
    if run.state != "running":
        say(out, f"continue with: {run.resume}", whole=True)


def _results(folder: Path, out: Console) -> None:
    """The first table of a study's results: methods and tasks, crossovers, or arms."""
    study = load_json(folder / "study.json")
    if "summary" in study and "tasks" in study:
        from arch_lab.report.cells import show
        from arch_lab.tasks.tables import overview

        show(overview(study), out)
    elif "crossovers" in study:
        from arch_lab.report.cells import show
        from arch_lab.throughput.tables import crossings

        show(crossings(study), out)
    else:
        from arch_lab.report.tables import results_table

        out.print()
        out.print(results_table(study))


def _side_by_side(runs: list[RunFolder], out: Console) -> None:
    from arch_lab.console import say, table

    rows = [row for run in runs for row in _rows(run)]
    columns = ["folder", "arm", "state", "trials", "score", "learning rate"]
    out.print(
        table(columns, rows, numeric=["trials", "score", "learning rate"], drop=("learning rate", "trials"))
    )
    for run in runs:
        say(out)
        say(out, (run.folder, "bold"), f": {run.verdict or run.reason or run.state}")


def _rows(run: RunFolder) -> list[list[Any]]:
    """One row per arm of a finished study with scores, else one for the folder."""
    from arch_lab import units
    from arch_lab.judge.measures import measures

    study = load_json(Path(run.folder) / "study.json") if run.state == "finished" else {}
    if "selected" not in study:
        return [[run.folder, "-", run.state, run.progress, "-", "-"]]
    judged = measures(study)[0]
    rows = []
    for arm in study["summary"]:
        score = f"{units.plus_minus(arm[judged.key])} {judged.name}"
        rows.append(
            [
                run.folder,
                arm["arm"],
                run.state,
                run.by_arm.get(arm["arm"], 0),
                score,
                units.rate(arm["learning_rate"]),
            ]
        )
    return rows
