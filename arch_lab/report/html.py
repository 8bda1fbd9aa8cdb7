"""``report.html``: one self-contained page from a study's folder, for a reader who was not there.

Reads study.json, study.yaml and runs/*/*/metrics.jsonl; needs nothing else and loads nothing from anywhere. The verdict
comes first, in words, then the results; how they were made follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arch_lab import files, sealed
from arch_lab.report import figures, sections
from arch_lab.report.markup import Raw, figure, items, join, paragraph, section, tag
from arch_lab.report.page_style import CSS
from blocks.errors import UserError

REQUIRED = (
    "study",
    "experiment",
    "budget",
    "tolerance",
    "sequence_length",
    "batch_size",
    "arms",
    "results",
    "selected",
    "summary",
    "verdict",
)

CAPTIONS = {
    "differences": "Each pair of arms at equal seeds: diamond = mean difference, bar = 95 % interval, dots = seeds. "
    "Filled: distinguishable (Holm-corrected when there are several pairs). Hollow: not, or too few seeds.",
    "losses": "Mean over the seeds that finished, at each arm's chosen learning rate; the band spans the lowest to the highest seed. "
    "Training loss is smoothed. The drop during the first 3 % of training is above the frame.",
    "sensitivity": "Final tuning loss for every learning rate: dots are seeds, the line their mean, the ring marks the chosen rate. "
    "A cross at the top counts the seeds that diverged there. Arms are shifted sideways a little so that they do not hide each other.",
    "components": "Where parameters and training FLOPs go, by part of the model. Parts that share weights are counted once.",
    "speed": "Measured on the machine named below at the chosen learning rate: bar = mean, ticks = seeds.",
}


def load(study_dir: Path) -> dict[str, Any]:
    """study.json, checked for what a report needs, ``matched`` and ``misses`` computed anew.

    Raises: UserError when it is absent, damaged or incomplete; BudgetError when its arms are not matched without override.
    """
    path = study_dir / "study.json"
    if not path.is_file():
        raise UserError(
            f"{path} not found; run `arch-lab compare` first, or give the folder of a finished study"
        )
    study = sealed.read(path, advice="run `arch-lab compare` again to rewrite it")
    lacking = [key for key in REQUIRED if key not in study]
    if lacking:
        raise UserError(f"{path} lacks {', '.join(lacking)}; run `arch-lab compare` again to rewrite it")
    # the counts decide whether arms are matched, not what the file says of itself
    from arch_lab.budget.recheck import require_matched

    _check_curves(study_dir, study)
    return require_matched(study, str(path))


def _check_curves(study_dir: Path, study: Mapping[str, Any]) -> None:
    """Raises: DamagedError for a curve that is not what its run wrote; one that was deleted is not drawn."""
    for name, expected in (study.get("curves") or {}).items():
        path = study_dir / name
        if path.is_file() and sealed.file_sha256(path) != expected:
            advice = f"delete {path.parent} and run `arch-lab compare` again to train it again"
            raise sealed.DamagedError(f"{path} was edited or damaged after it was written; {advice}")


def write(study_dir: Path) -> Path:
    """Writes ``study_dir/report.html`` atomically and returns its path.

    Raises: UserError when study.json is missing or unreadable, or matplotlib is not installed.
    """
    study_dir = Path(study_dir)
    return replace_page(study_dir, page(study_dir, load(study_dir)))


def replace_page(study_dir: Path, content: str) -> Path:
    """``study_dir/report.html`` holds ``content``, whole or not at all."""
    target = study_dir / "report.html"
    files.write_text(target, content)
    return target


def page(study_dir: Path, study: Mapping[str, Any]) -> str:
    drawings = {
        name: figures.svg(made, name, CAPTIONS[name])
        for name, made in figures.build(study_dir, study).items()
    }
    yaml = study_dir / "study.yaml"
    parts = [
        sections.header(study),
        sections.banner(study),
        sections.results(study),
        _differences(study, drawings),
        sections.budget(study),
        _drawn("Loss curves", "losses", drawings, "No run has metrics to draw."),
        _drawn(
            "Learning-rate sensitivity",
            "sensitivity",
            drawings,
            "No run finished, so there is nothing to draw.",
        ),
        _drawn("Parameters and FLOPs by component", "components", drawings, "No components were recorded."),
        _drawn("Throughput and memory", "speed", drawings, "No run recorded its speed."),
        sections.runs(study),
        sections.warnings(study),
        sections.data(study),
        sections.reproduce(
            study,
            f"runs/{study_dir.resolve().name}",
            yaml.read_text(encoding="utf-8") if yaml.is_file() else None,
        ),
        sections.glossary(study),
    ]
    return document(study["study"], parts)


def document(study: str, parts: Sequence[Any]) -> str:
    """One self-contained page of these parts."""
    head = join(
        [
            Raw('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", f"{study}: arch-lab report"),
            tag("style", Raw(CSS)),
        ]
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{join(parts)}</main></body></html>\n'


def _drawn(title: str, name: str, drawings: Mapping[str, str], absent: str) -> Raw:
    body = figure(drawings[name], CAPTIONS[name]) if name in drawings else paragraph(absent)
    return section(title, body, anchor=name)


def _differences(study: Mapping[str, Any], drawings: Mapping[str, str]) -> Raw:
    pairs = study["verdict"]["pairs"]
    if not pairs:
        return section(
            "Paired differences",
            paragraph("There is only one arm, so there is no pair to compare."),
            anchor="differences",
        )
    drawn = figure(drawings["differences"], CAPTIONS["differences"]) if "differences" in drawings else Raw("")
    corrected = len([p for p in pairs if p.get("p_adjusted") is not None]) > 1
    note = (
        paragraph(
            "Intervals are not corrected; the conclusions use Holm's correction over all pairs.", kind="soft"
        )
        if corrected
        else Raw("")
    )
    return section("Paired differences", items([p["text"] for p in pairs]), note, drawn, anchor="differences")
