"""``report.html`` of a study over tasks and its files: verdict first, the scores drawn and as tables, then how they were made."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arch_lab import files, sealed
from arch_lab.report import figures, sections
from arch_lab.report.html import document, replace_page
from arch_lab.report.markup import Raw, figure, items, join, paragraph, section, table, tag
from arch_lab.tasks import tables
from arch_lab.tasks.results import measures_of
from blocks.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REQUIRED = (
    "study",
    "experiment",
    "tasks",
    "absent",
    "methods",
    "rows",
    "chosen",
    "summary",
    "pairs",
    "averages",
    "verdict",
    "environment",
)
CAPTION = (
    "First measure of each task: diamond = mean over seeds, bar = 95 % interval, dots = seeds. Baselines are hollow, with dotted lines "
    "across."
)
TERMS = {
    "interval": "95 % Student-t interval of the mean over seeds. A seed sets initial weights, data order and, in some studies, splits.",
    "baseline": "A reference method; the verdict does not include it.",
    "beats": "The baselines that lie outside the whole interval of the method's first measure, on the worse side.",
    "learning rate": "Chosen for each task and method by the first measure on rows held out of the training split. The same grid for all.",
    "not distinguishable": "Paired differences over seeds, 95 % level, after Holm's correction over the pairs of the task.",
}


def load(folder: Path) -> dict[str, Any]:
    """study.json, checked for what a report needs. Raises: UserError when it is missing, damaged or incomplete."""
    path = Path(folder) / "study.json"
    study = sealed.read(path, advice="run `arch-lab compare` again to rewrite it")
    lacking = [key for key in REQUIRED if key not in study]
    if lacking:
        raise UserError(f"{path} lacks {', '.join(lacking[:3])}; run `arch-lab compare` again to rewrite it")
    return study


def write_all(folder: Path, study: Mapping[str, Any]) -> Path:
    """results.csv and report.html; returns the report's path."""
    files.write_text(folder / "results.csv", csv_text(study))
    return write(folder)


def csv_text(study: Mapping[str, Any]) -> str:
    """A row a fit, a column a measure of any task."""
    keys = list(dict.fromkeys(m["key"] for task in study["tasks"] for m in task["measures"]))
    stream = io.StringIO()
    heads = ["task", "method", "learning_rate", "seed", "status", "chosen", "tuned", *keys]
    writer = csv.DictWriter(stream, heads, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    for row in study["rows"]:
        chosen = study["chosen"][row["task"]].get(row["method"]) == row["learning_rate"]
        writer.writerow({**row, **row["scores"], "chosen": int(chosen)})
    return stream.getvalue()


def write(folder: Path) -> Path:
    """Writes report.html and scores.png. Raises: UserError when study.json or matplotlib is missing."""
    folder = Path(folder)
    study = load(folder)
    with figures.looks():
        drawn = scores(study)
        drawing = figures.svg(drawn, "scores", CAPTION)
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=130, facecolor="white")
    files.write_bytes(folder / "scores.png", buffer.getvalue())
    return replace_page(folder, document(study["study"], _parts(folder, study, drawing)))


def scores(study: Mapping[str, Any]) -> Figure:
    """A panel a task, a line a method."""
    across = min(3, len(study["tasks"]))
    down = -(-len(study["tasks"]) // across)
    names = [m["name"] for m in study["methods"]]
    drawn, axes = figures.subplots(down, across, (3.4 * across + 0.8, (0.24 * len(names) + 0.9) * down + 0.3))
    for panel in axes.flat[len(study["tasks"]) :]:
        panel.set_visible(False)
    for i, task in enumerate(study["tasks"]):
        panel, measure = axes.flat[i], measures_of(task)[0]
        rows = [
            s
            for s in study["summary"]
            if s["task"] == task["name"] and s["scores"][measure.key]["mean"] is not None
        ]
        for s in rows:
            at, score, look = (
                names.index(s["method"]),
                s["scores"][measure.key],
                figures.style(names.index(s["method"])),
            )
            fill = "none" if s["baseline"] else look["color"]
            if s["baseline"]:
                panel.axvline(score["mean"], color=look["color"], linestyle=":", linewidth=1)
            if score["low"] is not None:
                panel.plot([score["low"], score["high"]], [at, at], color=look["color"], linewidth=2)
            dots = _seeds(study, task["name"], s, measure.key)
            panel.plot(dots, [at] * len(dots), linestyle="", marker=".", color=look["color"], markersize=4)
            panel.plot(score["mean"], at, marker="D", color=look["color"], markerfacecolor=fill, markersize=6)
        panel.set_yticks(range(len(names)), names if i % across == 0 else [""] * len(names))
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_title(f"{task['name']}: {tables.arrowed(measure)}")
    return drawn


def _seeds(study: Mapping[str, Any], task: str, row: Mapping[str, Any], key: str) -> list[float]:
    place = (task, row["method"], row["learning_rate"])
    return [
        r["scores"][key]
        for r in study["rows"]
        if (r["task"], r["method"], r["learning_rate"]) == place and r["status"] == "finished"
    ]


def _parts(folder: Path, study: Mapping[str, Any], drawing: str) -> list[Raw]:
    yaml = folder / "study.yaml"
    about = [paragraph(study["description"])] if study.get("description") else []
    lines = [
        line if line.endswith(".") else f"{line}." for line in study["verdict"]["text"].split(". ") if line
    ]
    parts = [
        join(
            [
                tag("h1", f"Study: {study['study']}"),
                *about,
                tag("div", *map(paragraph, lines), class_="verdict"),
            ]
        )
    ]
    for i, found in enumerate(tables.all_tables(study)):
        above = [figure(drawing, CAPTION)] if found.drawing else []
        body = table(found.headers, found.rows, words=(0, *found.words))
        parts.append(
            section(
                found.heading,
                *above,
                body,
                paragraph(found.note, kind="soft") if found.note else "",
                anchor=f"table-{i}",
            )
        )
    said = study.get("warnings") or []
    parts.append(section("Warnings", items(said) if said else paragraph("No warnings."), anchor="warnings"))
    if study.get("notes"):
        parts.append(section("Files", items(study["notes"]), anchor="files"))
    parts += [
        sections.reproduce(
            study,
            f"runs/{folder.resolve().name}",
            yaml.read_text(encoding="utf-8") if yaml.is_file() else None,
        ),
        section(
            "Words",
            tag("dl", *(Raw(tag("dt", term) + tag("dd", meaning)) for term, meaning in TERMS.items())),
            anchor="words",
        ),
    ]
    return parts
