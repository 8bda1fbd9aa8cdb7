"""A study for a README: verdict, command, and the tables of the terminal."""

from __future__ import annotations

from arch_lab.report.contents import sections
from arch_lab.report.section import Table
from arch_lab.study.study import Study


def shown_tables(study: Study) -> list[Table]:
    """The tables that the terminal and Markdown share, in reading order."""
    return [table for section in sections(study) if not section.page_only for table in section.tables]


def markdown(study: Study) -> str:
    """Verdict, the command behind it, tables and warnings."""
    parts = [
        "\n\n".join(study.verdict.lines),
        provenance(study),
        *(table.markdown() for table in shown_tables(study)),
    ]
    parts += [f"Warning of the study: {line}." for line in study.warnings]
    return "\n\n".join(parts) + "\n"


def provenance(study: Study) -> str:
    """Command, machine, versions and date."""
    e = study.environment
    clock = f"{study.details['clock']} time, " if "clock" in study.details else ""
    device = e.get("device", "cpu")
    processor = e.get("cpu") if device == "cpu" else device
    machine = f"{e.get('threads', '?')} of {e.get('cores', '?')} cores, {processor}"
    commit = f"commit {e['commit']}, " if e.get("commit") else ""
    command = study.command or f"arch-lab compare {study.study}"
    return f"`{command}`, {clock}{machine}, torch {e.get('torch', '?')}, {commit}{e.get('date', '?')}."
