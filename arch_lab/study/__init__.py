"""Studies: load, plan, run, judge. Heavy imports wait until one is used."""

from __future__ import annotations

from typing import Any

_WHERE = {
    "compare": "arch_lab.study.engine",
    "plan": "arch_lab.study.planning",
    "list_studies": "arch_lab.study.library",
    "load_body": "arch_lab.study.body",
    "load_run": "arch_lab.study.load",
    "render_plan": "arch_lab.report.tables",
}
__all__ = ["compare", "list_studies", "load_body", "load_run", "plan", "render_plan"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        import importlib

        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
