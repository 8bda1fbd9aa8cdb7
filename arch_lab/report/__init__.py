"""The verdict: statistics over seeds, terminal tables, one self-contained HTML page, TensorBoard.

Each module is imported where it is used: matplotlib, rich and TensorBoard are slow to load and ``statistics`` needs none.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write"]


def write(study_dir: Path) -> Path:
    """``report.html`` of a study's folder; see ``arch_lab.report.html.write``."""
    from arch_lab.report.html import write as write_html

    return write_html(study_dir)
