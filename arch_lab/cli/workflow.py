"""A study from its file to its report: the engine, followed in the terminal, then everything that is drawn and printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arch_lab import files
from arch_lab.report import write_all
from arch_lab.study import engine
from arch_lab.study.study import Study
from arch_lab.study.trial import Observer

REPORT = ("report.html", "results.csv")  # files of a report


def compare(
    study: str,
    *,
    output: str | Path = "runs",
    quiet: bool = False,
    observer: Observer | None = None,
    **options: Any,
) -> Study:
    """Run a study to its verdict and write its report (``arch-lab compare``); finished trials of an earlier call are kept.

    Follows along in the terminal unless ``quiet`` or another ``observer`` is given. ``options``: of
    ``arch_lab.study.engine.compare`` (overrides, data_root, threads, cache, executor, workers).
    Raises: UserError subclasses, one line each, before anything trains wherever that is possible.
    """
    if observer is None and not quiet:
        from arch_lab.report.terminal import Terminal

        terminal = Terminal()
        try:
            return compare(study, output=output, observer=terminal, **options)
        finally:
            terminal.close()
    observer = observer or engine.silent
    written = False

    def watch(event: str, facts: dict[str, Any]) -> None:
        nonlocal written
        written = written or event == "baselines"  # trials are over: study.json will be new
        observer(event, facts)

    finished = engine.compare(study, output=output, observer=watch, **options)
    folder = Path(output) / finished.study
    if written or not all((folder / name).is_file() for name in REPORT):
        with files.folder_lock(folder, "arch-lab compare"):
            write_all(folder, finished)
    observer("report", {"study": finished, "report": str(folder / "report.html"), "folder": str(folder)})
    return finished
