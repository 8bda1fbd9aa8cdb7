"""Scores against sequence length: which studies belong together, what the figure draws, and the two tables."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from arch_lab import sealed
from arch_lab.cli import main
from arch_lab.judge.records import Baseline
from arch_lab.report.lengths import difference, length_section, write_lengths
from arch_lab.study.study import Study
from tests.study_fixture import TOKENS_PER_STEP, make_study

LENGTHS = (256, 1024, 4096)


def at_length(tokens: int) -> Study:
    study = make_study(exponents=(-9, -8), diverged=(), name=f"at_{tokens}")
    return replace(study, sequence_length=tokens, batch_size=TOKENS_PER_STEP // tokens)


@pytest.fixture(scope="module")
def series() -> list[Study]:
    return [at_length(tokens) for tokens in LENGTHS]


@pytest.fixture(scope="module")
def folders(series: list[Study], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("lengths")
    for study in series:
        (root / study.study).mkdir()
        sealed.write(root / study.study / "study.json", {**study.to_json(), "curves": {}})
    return [str(root / study.study) for study in series]


def test_the_order_of_the_studies_changes_nothing(series: list[Study]) -> None:
    first, again = length_section(series), length_section(series[::-1])
    assert first and again and [t.rows for t in first.tables] == [t.rows for t in again.tables]


def test_every_arm_stands_at_every_length_with_its_score(series: list[Study]) -> None:
    section = length_section(series)
    assert section
    shown = [tuple(cell.text for cell in row[:2]) for row in section.tables[0].cells]
    assert shown == [(f"{length:,}", arm) for length in LENGTHS for arm in ("gemma3", "m2_gpt")]
    scores = [row[2].value for row in section.tables[0].cells]
    assert scores == [s.scores["bits_per_byte"].mean for study in series for s in study.summary]


def test_detectable_is_half_of_the_paired_interval(series: list[Study]) -> None:
    section = length_section(series)
    assert section
    pair = series[0].pairs[0]
    assert pair.low is not None and pair.high is not None
    detectable = float(section.tables[1].cells[0][3].text)
    assert detectable == pytest.approx((pair.high - pair.low) / 2, rel=0.05)  # two digits


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"experiment": "masked"}, "different experiments"),
        ({"arms": ()}, "different arms"),
        ({"objective": {"mask_share": 0.3}}, "different objectives"),
        ({"data": {"source": "files"}}, "different data"),
        ({"sequence_length": LENGTHS[0]}, "two of them have length 256"),
        ({"sequence_length": None}, "a sequence length"),
    ],
)
def test_studies_that_differ_in_more_are_told_apart(
    series: list[Study], changed: dict[str, object], reason: str
) -> None:
    assert reason in difference([series[0], replace(series[1], **changed)])  # type: ignore[arg-type]


def test_one_study_is_no_series(series: list[Study]) -> None:
    assert difference(series) == "" and difference(series[:1]) and length_section(series[:1]) is None


def test_rows_drawn_at_each_length_are_the_same_data(series: list[Study]) -> None:
    drawn = [
        replace(
            study,
            data={
                "source": "drawn",
                "pairs": 8,
                "splits": {"tune": {"rows": 4, "tokens": 4 * length}},
                "fingerprint": str(length),
            },
        )
        for study, length in zip(series, LENGTHS, strict=True)
    ]
    assert difference(drawn) == ""


def words_of(figure: Path) -> set[str]:
    return set(re.findall(r">([^<>\n]+)</text>", figure.read_text()))


def test_the_file_names_every_arm_and_length(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lengths.svg"
    assert main(["report", *folders, "--lengths", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert {"gemma3", "m2_gpt", "256", "1,024", "4,096", "held-out bits per byte ↓"} <= words_of(path)


def test_a_baseline_is_a_line_where_it_is_near_and_a_number_elsewhere(
    series: list[Study], tmp_path: Path
) -> None:
    lines = [
        Baseline(name=name, scores={"bits_per_byte": bits}) for name, bits in (("near", 1.95), ("far", 3))
    ]
    drawn = write_lengths([replace(study, baselines=tuple(lines)) for study in series], tmp_path / "a.svg")
    assert "near" in words_of(drawn) and "tokens of a training window; outside: far 3.000" in words_of(drawn)


def test_the_same_studies_give_the_same_file(folders: list[str], tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        assert main(["report", *folders, "--lengths", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_page_of_a_series_begins_with_its_figure(folders: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["report", *folders, "--output", str(page)]) == 0
    text = page.read_text()
    assert text.index('<section id="lengths">') < text.index('id="1-results"')
    assert 'href="#lengths"' in text and "Differences at each length" in text


def test_one_study_has_no_figure_of_lengths(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", folders[0], "--lengths", str(tmp_path / "a.svg")]) == 2
    assert "give two studies or more" in capsys.readouterr().err
