"""The HTML page and its figures, on study folders of every awkward shape."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from arch_lab import sealed
from arch_lab.report import figures, load, write_all
from arch_lab.report.contents import sections
from arch_lab.report.page import write_page
from arch_lab.stored import VERSION
from blocks.errors import UserError
from tests.arch_lab.report.shapes import SHAPES
from tests.study_fixture import write_study

Pages = dict[str, tuple[Path, str]]
OWN_FILES = ("results.csv", "study.json")  # of the study's folder, which the page links to


class Outline(HTMLParser):
    """Section titles in order, ids, links to places of the page, and everything that a browser would load."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "path", "use", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.ids: list[str] = []
        self.anchors: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.ids += [values["id"]] if "id" in values else []
        links = [values[key] for key in ("src", "href", "xlink:href", "data", "srcset") if key in values]
        self.anchors += [link[1:] for link in links if link.startswith("#")]
        self.loads += [link for link in links if not link.startswith(("#", "data:,"))]
        self.loads += [tag] if tag in ("iframe", "object") else []
        self.open += [tag] if tag not in self.VOID else []

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
            self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


@pytest.fixture(scope="module")
def pages(folders: dict[str, Path]) -> Pages:
    """Shape -> (folder of the study, its page)."""
    written = {name: write_page(folder, load(folder)) for name, folder in folders.items()}
    return {name: (page.parent, page.read_text(encoding="utf-8")) for name, page in written.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_page_is_well_formed_and_keeps_its_order(shape: str, pages: Pages) -> None:
    folder, text = pages[shape]
    outline = Outline(text)
    assert outline.open == []
    titles = [section.title for section in sections(load(folder), folder)]
    assert outline.titles == [*titles, "Environment and how to reproduce", "Glossary"]
    reading = ["Results", "What was held equal", "Learning rates", "Every trial", "Warnings", "Data"]
    assert [title for title in titles if title in reading] == reading


@pytest.mark.parametrize("shape", SHAPES)
def test_the_page_loads_nothing(shape: str, pages: Pages) -> None:
    text = pages[shape][1]
    assert set(Outline(text).loads) <= set(OWN_FILES) and "@import" not in text
    assert not re.search(r"url\((?!#)", text) and not re.search(r"\b(fetch|XMLHttpRequest|import)\(", text)


@pytest.mark.parametrize("shape", SHAPES)
def test_ids_are_unique_over_all_figures(shape: str, pages: Pages) -> None:
    ids = Outline(pages[shape][1]).ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_link_within_the_page_leads_somewhere(shape: str, pages: Pages) -> None:
    outline = Outline(pages[shape][1])
    assert outline.anchors and set(outline.anchors) <= set(outline.ids)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_python_value_leaks_into_the_text(shape: str, pages: Pages) -> None:
    assert not re.search(r">\s*(None|nan|inf|\{\}|\[\])\b", pages[shape][1])


def test_the_verdict_stands_before_every_table_and_figure(pages: Pages) -> None:
    text = pages["ordinary"][1]
    text = text[text.index("<main") :]
    assert text.index("gemma3 is better than m2_gpt") < text.index("<table") < text.index("<svg")


def test_names_and_files_are_escaped(pages: Pages) -> None:
    text = pages["four arms, budget missed"][1]
    assert "hybrid_&lt;b&gt;" in text and "hybrid_<b>" not in text and "<script>alert" not in text


def test_a_missed_budget_raises_the_banner(pages: Pages) -> None:
    assert 'class="banner"' in pages["four arms, budget missed"][1]
    assert 'class="banner"' not in pages["ordinary"][1]


def test_an_override_raises_the_banner_even_when_budgets_match(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", **SHAPES["one arm"])
    page = write_page(folder, replace(load(folder), override=True))
    assert 'class="banner"' in page.read_text(encoding="utf-8")


def test_every_run_is_listed_diverged_ones_too(pages: Pages) -> None:
    folder, text = pages["ordinary"]
    section = text[text.index('id="trials"') : text.index('id="warnings"')]
    assert section.count("<tr>") - 1 == len(load(folder).results) and section.count("✗ diverged") == 3


def test_the_page_gives_commit_and_command_to_reproduce_it(pages: Pages) -> None:
    folder, text = pages["ordinary"]
    assert "git checkout 0123456789abcdef" in text and f"arch-lab compare {folder}/study.yaml" in text


def test_uncommitted_changes_are_said(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", **SHAPES["one arm"])
    study = load(folder)
    page = write_page(folder, replace(study, environment={**study.environment, "commit": "abc+"}))
    text = page.read_text(encoding="utf-8")
    assert "git checkout abc\n" in text and "uncommitted changes" in text


def test_figures_follow_the_page_colours(pages: Pages) -> None:
    text = pages["ordinary"][1]
    assert "currentColor" in text and figures.INK not in text[text.index("<svg") :]


def test_an_arm_has_one_colour_in_every_figure(pages: Pages) -> None:
    folder, _ = pages["ordinary"]
    drawings = {d.name: d for section in sections(load(folder), folder) for d in section.drawings}
    with figures.looks():
        for name in ("loss", "sensitivity", "speed"):
            drawn = figures.svg(drawings[name].draw(), name, name).lower()
            assert figures.ARM_COLOURS[1].lower() in drawn, name


def test_the_same_study_gives_the_same_bytes(pages: Pages) -> None:
    folder, text = pages["one arm"]
    assert write_page(folder, load(folder)).read_text(encoding="utf-8") == text


def test_a_failing_report_leaves_the_old_one_and_no_litter(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", **SHAPES["one arm"])
    (folder / "report.html").write_text("old")
    before = sorted(folder.rglob("*"))
    study = load(folder)
    broken = replace(study, baselines=(replace(study.baselines[0], scores={"bits_per_byte": "many"}),))
    with pytest.raises((TypeError, ValueError)):
        write_page(folder, broken)
    assert (folder / "report.html").read_text() == "old"
    assert [path for path in sorted(folder.rglob("*")) if path.suffix != ".png"] == before


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "not found"),
        ("{", "not valid JSON"),
        ("{}", "no checksum"),
        (json.dumps(sealed.seal({})), "in another form"),
        (json.dumps(sealed.seal({"version": VERSION})), "'study' is required"),
    ],
)
def test_a_bad_study_file_is_one_clear_line(tmp_path: Path, content: str | None, word: str) -> None:
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError, match=word) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_study_of_an_older_version_says_who_wrote_it(tmp_path: Path) -> None:
    environment = {"arch_lab": "0.1.0", "commit": "e436a2f0123"}
    sealed.write(tmp_path / "study.json", {"study": "old", "environment": environment})
    with pytest.raises(UserError, match=r"was written by arch-lab 0\.1\.0 \(e436a2f\).*compare` again"):
        load(tmp_path)


def test_without_matplotlib_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_study(tmp_path / "s", **SHAPES["one arm"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"arch-lab\[report\]"):
        write_all(folder, load(folder))
