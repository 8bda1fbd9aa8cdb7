"""The table block × law, and its documentation page."""

from __future__ import annotations

from collections.abc import Sequence

from arch_lab.laws import tolerances
from arch_lab.laws.cases import cases
from arch_lab.laws.laws import LAWS, exceptions, inapplicable
from arch_lab.laws.result import BlockReport, LawResult
from arch_lab.laws.subject import subject_of
from blocks.registry import Entry

COMMAND = "arch-lab certify --all --markdown"
HEAD = f"""# The laws

Every registered block must pass seven laws in every configuration below. `arch-lab certify NAME` or
`arch-lab certify package.module:Block` runs them on one block; `make test` runs them on every block of this
repository. This page is generated: `{COMMAND} > docs/laws.md`; a test fails when it is out of date.

`arch-lab certify` shows for each law the worst deviation as a *share* of its bound: below 1 the law holds, at
1 it is at the bound. It also shows the value and the bound; their units are in the [table of
tolerances](#tolerances).

Lengths: short, odd and prime ones up to 65 tokens and those around the block's window, for every law.
Causality and prefix consistency also run on long rows: 128, 256, 512, 1,024, 1,099 and 1,100 tokens and the
sizes of windows and chunks found in the block, in evaluation mode and in train mode with gradients recorded.
Configurations after the first run at 128 and 1,100.

Costs are what runs: `cost(tokens)` must equal the matmul and FFT FLOPs that the counted forward pass
executes. A quadratic parallel form of a linear-time algorithm therefore costs what the quadratic form costs;
a mask that discards half of a product does not lower the cost. Two kinds of operators have special formulas:
attention through `blocks.attention` (only visible pairs count) and `blocks.convolution` (every algorithm of a
long convolution counts as its FFT).

A study runs part of these laws on the built model, at the lengths that it trains and scores: see
[what a certificate looks at](certificate.md).

| law | says |
|---|---|
"""


def expected(entry: Entry) -> BlockReport:
    """The report of a block that passes every applicable law, without running any."""
    all_cases = cases(entry)
    subjects = [subject_of(entry, case) for case in all_cases]
    results = []
    for law in LAWS.values():
        reasons = {s.case.name: reason for s in subjects if (reason := inapplicable(law, s))}
        if len(reasons) == len(subjects):
            first = next(iter(reasons.values()))
            results.append(LawResult(law=law.name, status="not_applicable", reason=first))
        else:
            results.append(LawResult(law=law.name, status="passed", notes=exceptions(reasons)))
    names = tuple(case.name for case in all_cases)
    return BlockReport(block=entry.name, kind=entry.kind, cases=names, laws=tuple(results))


def markdown(reports: Sequence[BlockReport]) -> str:
    """The whole page: laws, coverage, configurations, tolerances."""
    laws = "\n".join(f"| {law.name} | {law.says} |" for law in LAWS.values())
    sections = [[HEAD + laws], _coverage(reports), _configurations(reports), _tolerances()]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _coverage(reports: Sequence[BlockReport]) -> list[str]:
    notes: list[str] = []
    head = ["## Coverage", "", f"| block | kind | configurations | {' | '.join(LAWS)} |"]
    rows = []
    for report in reports:
        kind, cells = report.kind.replace("_", " "), [_cell(result, notes) for result in report.laws]
        rows.append(f"| `{report.block}` | {kind} | {len(report.cases)} | {' | '.join(cells)} |")
    numbered = [f"[{i}] {note}  " for i, note in enumerate(notes, start=1)]
    return [*head, "|---|---|---|" + "---|" * len(LAWS), *rows, "", *numbered]


def _cell(result: LawResult, notes: list[str]) -> str:
    """Whether the law holds, with the numbers of its notes; new ones are added to ``notes``."""
    if result.status == "failed":
        return "**failed**"
    if result.status == "not_applicable":
        return f"n/a [{_number(result.reason, notes)}]"
    reasons = sorted({note.partition(": ")[2] for note in result.notes})
    marks = [f" [{_number(f'except in some configurations: {reason}', notes)}]" for reason in reasons]
    return "holds" + "".join(marks)


def _number(note: str, notes: list[str]) -> int:
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


def _configurations(reports: Sequence[BlockReport]) -> list[str]:
    lines = [f"* `{report.block}`: {'; '.join(report.cases)}" for report in reports]
    legend = "`plain` is a small block with the options of `arch_lab.laws.cases.SMALL`"
    return ["## Configurations", "", *lines, "", f"{legend}; the others change the options they list."]


def _tolerances() -> list[str]:
    head = ["## Tolerances", "", "| name | used for | bound | relative to | reason |", "|---" * 5 + "|"]
    rows = []
    for name, (use, limit) in tolerances.ALL.items():
        unit, reason = (text.replace("|", "\\|") for text in (limit.of, limit.reason))
        rows.append(f"| {name} | {use} | {limit.bound:g} | {unit} | {reason} |")
    return [*head, *rows, "", "Accounting and round trip have no tolerance: integers and bits must be equal."]
