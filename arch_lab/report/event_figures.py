"""Figures of the report as images of TensorBoard, and the verdict as its text, at the study's root."""

from __future__ import annotations

from pathlib import Path

from arch_lab.report import figures
from arch_lab.report.contents import sections
from arch_lab.study.events import open_events
from arch_lab.study.study import Study

DPI = 110


def write_figures(folder: Path, study: Study) -> None:
    """Calling it again replaces them. Raises: UserError when matplotlib or tensorboard is not installed."""
    drawings = [drawing for section in sections(study, folder) for drawing in section.drawings]
    writer = open_events(folder, "figures")
    with figures.looks():
        for drawing in drawings:
            figure = drawing.draw()
            figure.set_dpi(DPI)
            writer.add_figure(f"report/{drawing.name}", figure)
    writer.add_text("verdict", "\n\n".join(study.verdict.lines))
    writer.close()
