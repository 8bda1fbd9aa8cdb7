"""``report.html``: one self-contained page of one study or several, for a reader who was not there.

It needs the folder of the study and nothing else, and loads nothing from anywhere. The verdict and the table
of results come first; how they were made follows. Figures and tables do without the script of the page,
which adds hover values, other axes and sorting.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arch_lab import files, units
from arch_lab.report import facts, figures
from arch_lab.report.contents import sections
from arch_lab.report.glossary import terms
from arch_lab.report.lengths import length_section
from arch_lab.report.section import Drawing, Section, Table
from arch_lab.report.wording import sentences, short_verdict, shortened
from arch_lab.study.overview import RunFolder, run_folders
from arch_lab.study.study import STUDY, Study

TEMPLATES = Path(__file__).parent / "templates"
REPORT, RESULTS, INDEX = "report.html", "results.csv", "index.html"
KINDS = {"finished": "good", "damaged": "bad", "refused": "bad"}  # state of a folder -> how it looks


@dataclass(frozen=True)
class Drawn:
    """A figure as the page embeds it.

    ``points``: JSON of a chart for the script, "" for a figure that stands still.
    """

    svg: str
    caption: str
    points: str = ""


@dataclass(frozen=True)
class Part:
    """A section with its figures."""

    section: Section
    figures: Sequence[Drawn]


@dataclass(frozen=True, kw_only=True)
class View:
    """One study as the template shows it. ``prefix``: of its anchors, "" where it is alone on the page."""

    name: str
    prefix: str
    description: str
    facts: str
    warnings: str
    links: Sequence[tuple[str, str]]
    banner: str
    misses: Sequence[str]
    verdict: Sequence[str]
    whole_verdict: str
    limits: str
    parts: Sequence[Part]
    commands: Sequence[str]
    uncommitted: bool
    yaml: str
    environment: Table
    glossary: dict[str, str]
    colours: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A study's line of the index page. ``link``: its report, "" where there is none."""

    name: str
    experiment: str
    state: str
    kind: str
    progress: str
    when: str
    verdict: str
    link: str


def write_page(folder: Path, study: Study) -> Path:
    """``folder``/report.html and the PNG files of its figures, each whole or not at all.

    Returns the page's path.

    Raises: UserError when matplotlib is not installed.
    """
    parts = sections(study, folder)
    with figures.looks():
        for drawing in (drawing for part in parts for drawing in part.drawings if drawing.file):
            files.write_bytes(folder / drawing.file, figures.png(drawing.draw()))
        page = _page(study.study, [_view(folder, study, parts, folder, "")])
    files.write_text(folder / REPORT, page)
    return folder / REPORT


def write_combined(studies: Sequence[tuple[Path, Study]], output: Path) -> Path:
    """One page of several studies, after a table of their verdicts.

    Studies that differ in their sequence length only are also drawn against it.
    """
    names = [study.study for _, study in studies]
    with figures.looks():
        views = []
        for number, (folder, study) in enumerate(studies):
            prefix = "" if len(studies) == 1 else f"{number + 1}-"
            views.append(_view(folder, study, sections(study, folder), output.parent, prefix))
        series = length_section([study for _, study in studies])
        across = [Part(series, [_drawn(drawing, "0-") for drawing in series.drawings])] if series else []
    rows = [[study.study, str(folder), _short(study)] for folder, study in studies]
    overview = Table(headers=["study", "folder", "verdict"], rows=rows, text_columns=(0, 1, 2))
    page = _page(units.words(names), views, overview if len(studies) > 1 else None, across)
    files.write_text(output, page)
    return output


def write_index(root: Path) -> Path:
    """``root``/index.html.

    Every study at or below a folder, with its state, its verdict and a link to its report.
    """
    entries = [_entry(run, root) for run in run_folders(root)]
    files.write_text(root / INDEX, _render("index.html.jinja", studies=entries, folder=str(root)))
    return root / INDEX


def _entry(run: RunFolder, root: Path) -> Entry:
    report = Path(run.folder) / REPORT
    return Entry(
        name=run.study,
        experiment=run.experiment,
        state=run.state,
        kind=KINDS.get(run.state, "soft"),
        progress=run.progress,
        when=run.when,
        verdict=short_verdict(run.verdict, run.by_arm) or run.reason or units.DASH,
        link=report.relative_to(root).as_posix() if report.is_file() else "",
    )


def _page(
    title: str, views: Sequence[View], overview: Table | None = None, across: Sequence[Part] = ()
) -> str:
    """``across``: what concerns all studies, above the first."""
    return _render("report.html.jinja", title=title, views=views, overview=overview, across=across)


def _render(template: str, **values: object) -> str:
    """Everything that is not marked as safe in a template is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    engine = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    css, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    return engine.get_template(template).render(css=css, script=script, **values)


def _view(folder: Path, study: Study, parts: Sequence[Section], page_folder: Path, prefix: str) -> View:
    yaml = folder / "study.yaml"
    commit = str(study.environment.get("commit") or "")
    command = study.command or f"arch-lab compare {folder}/study.yaml"
    banner, misses = banner_of(study)
    verdict = [shortened(line, [arm.name for arm in study.arms]) for line in sentences(study.verdict.text)]
    warnings = units.counted(len(study.warnings), "warning") if study.warnings else ""
    return View(
        name=study.study,
        prefix=prefix,
        description=study.description,
        facts=facts_line(study),
        warnings=warnings,
        links=[(name, _link(folder / name, page_folder)) for name in (RESULTS, STUDY)],
        banner=banner,
        misses=misses,
        verdict=[*verdict, *([study.verdict.where] if study.verdict.where else [])],
        limits=study.verdict.limits,
        whole_verdict="" if verdict == sentences(study.verdict.text) else study.verdict.text,
        parts=[Part(section, [_drawn(drawing, prefix) for drawing in section.drawings]) for section in parts],
        # a commit that ends in "+" had changes on top which nobody else has
        commands=[*([f"git checkout {commit.rstrip('+')}"] if commit else []), command],
        uncommitted=commit.endswith("+"),
        yaml=yaml.read_text(encoding="utf-8") if yaml.is_file() else "",
        environment=facts.settings(study.environment, heads=("", "value")),
        glossary=terms(study, parts),
        colours={arm.name: figures.colour_of(position) for position, arm in enumerate(study.arms)},
    )


def _link(path: Path, page_folder: Path) -> str:
    from urllib.parse import quote

    return quote(Path(os.path.relpath(path, page_folder)).as_posix())


def _drawn(drawing: Drawing, prefix: str) -> Drawn:
    svg = figures.svg(drawing.draw(), f"{'s' if prefix else ''}{prefix}{drawing.name}", drawing.caption)
    points = json.dumps(drawing.chart.to_json()).replace("<", "\\u003c") if drawing.chart else ""
    return Drawn(svg, drawing.caption, points)


def facts_line(study: Study) -> str:
    """What was run, in one line."""
    arms = [arm.name for arm in study.arms if not arm.baseline]
    records = units.counted(len(study.results), "trial" if study.summary else "measurement")
    line = f"Experiment {study.experiment}: {units.words(arms)}; {records}"
    rates = {r.learning_rate for r in study.results if r.learning_rate is not None}
    seeds = {r.seed for r in study.results}
    if study.has_tasks and study.summary:
        line += f" on {units.counted(len(study.tasks), 'task')}"
    if rates:
        line += f" at {units.counted(len(rates), 'learning rate')} and {units.counted(len(seeds), 'seed')}"
        fewer = not study.has_tasks and len(study.results) < len(arms) * len(rates) * len(seeds)
        line += " (not every seed at every rate)" if fewer else ""
    return f"{line}."


def _short(study: Study) -> str:
    return short_verdict(study.verdict.text, [arm.name for arm in study.arms])


def banner_of(study: Study) -> tuple[str, list[str]]:
    """(a loud line where this is no comparison at equal cost, else "", what misses the budget)."""
    if study.matched and not study.override:
        return "", []
    misses = [miss.text for miss in study.misses]
    reason = "The budget check was overridden. " if study.override else ""
    if study.matched:
        return f"{reason}All arms are within the tolerance, but it was not enforced.", misses
    text = "differences below may come from size or compute, not from the architecture."
    return f"{reason}At least one arm misses the budget: {text}", misses
