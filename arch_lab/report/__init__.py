"""A judged study shown.

Terminal, page, Markdown, CSV, TensorBoard. It reads what the study wrote, and computes no score.

Importing this package imports nothing: matplotlib, rich and TensorBoard take seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from arch_lab.study.plan import Plan
    from arch_lab.study.study import Study

__all__ = ["load", "render_plan", "render_results", "write_all"]


def load(folder: Path) -> Study:
    """The study of a folder, with ``matched`` and ``misses`` computed anew and its curves checked.

    Raises: UserError when study.json is absent, damaged or of another version; BudgetError when its arms are
    not matched without override; DamagedError for a curve that is not what its trial wrote.
    """
    from arch_lab.report.curves import check_curves
    from arch_lab.study.recheck import require_matched
    from arch_lab.study.study import STUDY, read_study

    study = read_study(folder)
    check_curves(folder, study)
    return require_matched(study, str(Path(folder) / STUDY))


def write_all(folder: Path, study: Study) -> Path:
    """results.csv, report.html and its figures, also for TensorBoard; returns the page's path.

    Raises: UserError when matplotlib or tensorboard is not installed.
    """
    from arch_lab import files
    from arch_lab.report.event_figures import write_figures
    from arch_lab.report.page import RESULTS, write_page
    from arch_lab.report.tables import results_csv

    files.write_text(folder / RESULTS, results_csv(study))
    page = write_page(folder, study)
    write_figures(folder, study)
    return page


def render_plan(plan: Plan, console: Console, workers: int = 1) -> None:
    """What a study will do, on a rich console. ``workers``: trials at a time."""
    from arch_lab.report.printed import render_plan as show

    show(plan, console, workers)


def render_results(study: Study, console: Console) -> None:
    """Tables and verdict of a study, on a rich console."""
    from arch_lab.report.printed import render_results as show

    show(study, console)
