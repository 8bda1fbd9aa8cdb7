"""The table block × law of what the law tests really found, for the end of a test run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from arch_lab.laws import LAWS

LAW_RESULT = "law_result"  # the property each law test records: [block, law, status, reason]


def law_table(results: Sequence[tuple[Sequence[str], bool]]) -> str:
    """``results``: (block, law, status, reason) and whether its test failed. Empty text when no law test ran.

    A cell counts configurations: ``5``: all five hold; ``3 [1]``: three hold, note 1 says why the others are
    not asked; ``n/a [2]``: asked of none; ``FAILED 2/5``.
    """
    if not results:
        return ""
    cells: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for (block, law, status, reason), failed in results:
        cells[block, law].append(("failed" if failed else status, reason))
    blocks = sorted({block for block, _ in cells})
    laws = [
        law for law in LAWS if any(law == found for _, found in cells)
    ]  # in their order; workers finish in any
    notes: list[str] = []
    rows = [
        ["block", *laws],
        *([block, *(_cell(cells[block, law], notes) for law in laws)] for block in blocks),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["laws held, by number of configurations (docs/laws.md)"]
    lines += [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, *(f"[{i}] not asked: {note}" for i, note in enumerate(notes, start=1))])


def _cell(found: list[tuple[str, str]], notes: list[str]) -> str:
    failed = sum(status == "failed" for status, _ in found)
    passed = sum(status == "passed" for status, _ in found)
    if failed:
        return f"FAILED {failed}/{len(found)}"
    marks = ""
    for reason in sorted({reason for status, reason in found if status == "not_applicable"}):
        if reason not in notes:
            notes.append(reason)
        marks += f" [{notes.index(reason) + 1}]"
    return f"{passed or 'n/a'}{marks}"
