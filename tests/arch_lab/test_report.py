"""The HTML page, its figures, the terminal tables and the CSV, on study folders of every awkward shape."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from arch_lab import sealed, units
from arch_lab.report import curves, figures, html, tables
from blocks.errors import UserError
from tests.study_fixture import run_folder, write_study

LOST = tuple(("m2_gpt", e, s) for e in (-9, -8) for s in range(2))
SHAPES: dict[str, dict] = {
    "ordinary": {},
    "one arm": {"arms": ("gemma3",), "seeds": 1, "exponents": (-8,), "diverged": ()},
    "no baselines": {"baselines": False, "seeds": 2, "exponents": (-9, -8)},
    "one arm diverged everywhere": {"seeds": 2, "exponents": (-9, -8), "diverged": LOST},
    "nothing finished": {"arms": ("m2_gpt",), "seeds": 2, "exponents": (-9, -8), "diverged": LOST},
    "metrics missing": {"seeds": 2, "exponents": (-9, -8), "without_metrics": ("gemma3",)},
    "four arms, budget missed": {
        "arms": ("gemma3", "m2_gpt", "gemma1", "hybrid_<b>"),
        "deviation": 0.03,
        "exponents": (-9, -8),
    },
}


class Outline(HTMLParser):
    """Section titles in order, text, ids, and everything a browser would load."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "path", "use"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.loads += [
            v
            for k, v in attrs
            if k in ("src", "href", "xlink:href", "data", "srcset") and not (v or "").startswith("#")
        ]
        self.loads += [tag] if tag in ("script", "link", "iframe", "object") else []
        self.open += [tag] if tag not in self.VOID else []

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
            self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    folders = {
        name: write_study(tmp_path_factory.mktemp("study") / "quickstart", **options)
        for name, options in SHAPES.items()
    }
    return {
        name: (folder, html.write(folder).read_text(encoding="utf-8")) for name, folder in folders.items()
    }


def load(folder: Path) -> dict:
    return json.loads((folder / "study.json").read_text())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_page_is_well_formed_and_keeps_its_order(shape: str, pages: dict) -> None:
    outline = Outline(pages[shape][1])
    assert outline.open == []
    order = [
        "Results",
        "Paired differences",
        "What was held equal",
        "Loss curves",
        "Learning-rate sensitivity",
        "Parameters and FLOPs by component",
    ]
    order += [
        "Throughput and memory",
        "Every run",
        "Warnings",
        "Data",
        "Environment and how to reproduce",
        "Glossary",
    ]
    assert outline.titles == order


@pytest.mark.parametrize("shape", SHAPES)
def test_the_page_loads_nothing(shape: str, pages: dict) -> None:
    text = pages[shape][1]
    assert Outline(text).loads == [] and "@import" not in text and not re.search(r"url\((?!#)", text)


@pytest.mark.parametrize("shape", SHAPES)
def test_ids_are_unique_over_all_figures(shape: str, pages: dict) -> None:
    ids = Outline(pages[shape][1]).ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_python_value_leaks_into_the_text(shape: str, pages: dict) -> None:
    assert not re.search(r">\s*(None|nan|inf|\{\}|\[\])\b", pages[shape][1])


def test_the_verdict_stands_before_every_table_and_figure(pages: dict) -> None:
    text = pages["ordinary"][1]
    assert text.index("gemma3 is better than m2_gpt") < text.index("<table") < text.index("<svg")


def test_names_and_files_are_escaped(pages: dict) -> None:
    text = pages["four arms, budget missed"][1]
    assert "hybrid_&lt;b&gt;" in text and "hybrid_<b>" not in text and "<script>" not in text


def test_a_missed_budget_raises_the_banner(pages: dict) -> None:
    assert (
        'class="banner"' in pages["four arms, budget missed"][1]
        and 'class="banner"' not in pages["ordinary"][1]
    )


def test_an_override_raises_the_banner_even_when_budgets_match(pages: dict) -> None:
    folder, _ = pages["ordinary"]
    assert 'class="banner"' in html.page(folder, load(folder) | {"override": True})


def test_every_run_is_listed_diverged_ones_too(pages: dict) -> None:
    folder, text = pages["ordinary"]
    section = text[text.index('id="runs"') : text.index('id="warnings"')]
    assert section.count("<tr>") - 1 == len(load(folder)["results"]) and section.count("✗ diverged") == 3


def test_the_command_to_reproduce_names_commit_and_study(pages: dict) -> None:
    text = pages["ordinary"][1]
    assert "git checkout 0123456789abcdef" in text and "arch-lab compare runs/quickstart/study.yaml" in text


def test_uncommitted_changes_are_said(pages: dict) -> None:
    folder, _ = pages["one arm"]
    study = load(folder)
    study["environment"]["commit"] = "abc+"
    text = html.page(folder, study)
    assert "git checkout abc\n" in text and "uncommitted changes" in text


def test_figures_follow_the_page_colours(pages: dict) -> None:
    text = pages["ordinary"][1]
    assert "currentColor" in text and figures.INK not in text[text.index("<svg") :]


def test_an_arm_has_one_colour_in_every_figure(pages: dict) -> None:
    folder, _ = pages["ordinary"]
    drawn = figures.build(folder, load(folder))
    for name in ("losses", "sensitivity", "speed"):
        assert figures.ARM_COLOURS[1].lower() in figures.svg(drawn[name], name, name).lower(), name


def test_the_same_study_gives_the_same_bytes(pages: dict) -> None:
    folder, text = pages["one arm"]
    assert html.write(folder).read_text(encoding="utf-8") == text


def test_a_failing_report_leaves_the_old_one_and_no_litter(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", **SHAPES["one arm"])
    (folder / "report.html").write_text("old")
    study = load(folder)
    del study["arms"][0]["width"]
    sealed.write(folder / "study.json", study)
    with pytest.raises(KeyError):
        html.write(folder)
    assert (folder / "report.html").read_text() == "old" and not list(folder.glob(".report-*"))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "not found"),
        ("{", "not valid JSON"),
        ("{}", "no checksum"),
        (json.dumps(sealed.seal({})), "lacks study"),
    ],
)
def test_a_bad_study_file_is_one_clear_line(tmp_path: Path, content: str | None, word: str) -> None:
    if content is not None:
        (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError, match=word) as caught:
        html.write(tmp_path)
    assert "\n" not in str(caught.value)


def test_without_matplotlib_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_study(tmp_path / "s", **SHAPES["one arm"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"arch-lab\[report\]"):
        html.write(folder)


def test_a_cut_line_is_skipped_and_a_repeated_step_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "train_loss": 3}\n{"step": 2, "train_loss": 9}\n{"step": 2, "train_loss": 2}\n{"step": 3, "trai'
    )
    assert [(r["step"], r["train_loss"]) for r in curves.read_metrics(path)] == [(1, 3), (2, 2)]


def test_a_diverging_curve_ends_before_its_first_nan() -> None:
    records = [{"step": s, "train_loss": v} for s, v in ((1, 3.0), (2, float("nan")), (3, 2.0))]
    assert list(curves.series(records, "train_loss")) == [1]


def test_smoothing_leaves_a_constant_unchanged() -> None:
    np.testing.assert_allclose(curves.smooth(np.full(50, 2.5), 9), 2.5)


def test_the_band_spans_the_seeds(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", arms=("gemma3",), exponents=(-8,), diverged=())
    curve = curves.arm_curve(folder, load(folder)["results"], "tune_bits_per_byte")
    assert (
        curve is not None
        and curve.seeds == 3
        and np.all(curve.low < curve.middle)
        and np.all(curve.middle < curve.high)
    )


def rendered(show: object, study: dict, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    show(study, console)  # type: ignore[operator]
    return console.export_text()


@pytest.mark.parametrize("shape", SHAPES)
def test_results_fit_a_hundred_columns_without_clipping(shape: str, pages: dict) -> None:
    study = load(pages[shape][0])
    text = rendered(tables.render_results, study)
    assert "…" not in text and max(map(len, text.splitlines())) <= 100
    for arm in study["arms"]:
        assert text.count(arm["name"]) >= 4  # results, size, cost, learning rates: whole in each


def test_terminal_shows_interval_baselines_and_divergence(pages: dict) -> None:
    text = rendered(tables.render_results, load(pages["ordinary"][0]))
    assert (
        re.search(r"gemma3 .*1\.93\d ± 0\.0\d+ .*unigram, bigram, trigram", text)
        and "×3/3" in text
        and "trigram " in text
    )


def test_the_plan_needs_no_results(pages: dict) -> None:
    study = load(pages["ordinary"][0])
    plan = {key: study[key] for key in ("study", "budget", "tolerance", "arms")}
    for arm in plan["arms"]:
        arm["estimate"] = {"seconds_per_run": 500.0, "memory_bytes": 3e8}
    text = rendered(
        tables.render_plan, plan | {"learning_rates": [0.001, 0.002], "seeds": [0, 1, 2], "runs": 8}
    )
    assert "runs: 8 (arms 2, learning rates 2 (0.001, 0.002), seeds 3; not every seed" in text
    assert "about 1 h 06 min" in text and "8 min 20 s" in text and "286 MiB" in text and "…" not in text


def test_the_plan_of_a_missed_budget_names_what_misses(pages: dict) -> None:
    study = load(pages["four arms, budget missed"][0])
    text = rendered(tables.render_plan, study | {"misses": [{"text": "arm 'm2_gpt' is +3.00% off"}]})
    assert "NOT matched" in text and "arm 'm2_gpt' is +3.00% off" in text


def test_the_csv_has_a_row_per_run(pages: dict, tmp_path: Path) -> None:
    study = load(pages["ordinary"][0])
    rows = list(csv.DictReader(tables.write_csv(study, tmp_path / "results.csv").open()))
    assert len(rows) == 30 and [r["bits_per_byte"] for r in rows if r["status"] == "diverged"] == ["", "", ""]
    assert sum(int(r["selected"]) for r in rows) == 6


def test_run_folders_are_named_as_training_names_them(tmp_path: Path) -> None:
    result = {"arm": "a", "learning_rate": 2.0**-9, "seed": 3}
    assert (
        curves.run_path(tmp_path, result)
        == run_folder(tmp_path, result)
        == tmp_path / "runs/a/lr-0.00195312_seed-3"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.short(1_234_567), "1.23M"),
        (units.short(999_600, "FLOP"), "1 MFLOP"),
        (units.short(1_001_700, digits=4), "1.002M"),
        (units.short(950), "950"),
        (units.short(None), "–"),
        (units.memory(5 * 2**20), "5 MiB"),
        (units.memory(1000 * 1024), "1,000 KiB"),
        (units.duration(4000), "1 h 06 min"),
        (units.plus_minus({"mean": 1.23456, "low": 1.22256, "high": 1.24656, "n": 3}), "1.235 ± 0.012"),
        (units.plus_minus({"mean": 1.23456, "low": None, "high": None, "n": 1}), "1.2346"),
        (units.words(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text == expected
