"""Arms at equal FLOPs, tokens and seconds, by curves that are known in closed form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from arch_lab.judge.records import Machine
from arch_lab.report.equal_cost import NAMES, against_baselines, equal_cost
from arch_lab.report.section import Section
from arch_lab.study.study import Study
from tests.study_fixture import make_study, run_folder

SLOWNESS = {"gemma3": 1.0, "m2_gpt": 2.0}  # seconds per step


def write_curves(folder: Path, study: Study, *, steps: int = 10) -> None:
    """Tune scores 3 - 0.1 steps, of m2_gpt 0.05 lower; the same tokens and FLOPs a step, twice the seconds for m2_gpt."""
    for record in study.results:
        path = run_folder(folder, record)
        path.mkdir(parents=True)
        offset = (0.05 if record.arm == "m2_gpt" else 0.0) + 0.001 * record.seed * (record.arm == "m2_gpt")
        lines = [
            {"step": s, "tokens": 100 * s, "flops": 1e6 * s, "seconds": s * SLOWNESS[record.arm]}
            | {"tune_bits_per_byte": 3 - 0.1 * s - offset}
            for s in range(1, steps + 1)
        ]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> Section:
    folder, study = tmp_path_factory.mktemp("curves"), make_study()
    write_curves(folder, study)
    found = equal_cost(folder, study)
    assert found is not None
    return found


def cells(section: Section) -> dict[str, str]:
    table = section.tables[0]
    return dict(zip(table.headers, (cell.text for cell in table.cells[0]), strict=True))


def test_the_lower_curve_is_ahead_at_equal_tokens_and_flops(section: Section) -> None:
    row = cells(section)
    assert row["difference of"] == "m2_gpt − gemma3"
    for axis, place in (("tokens", "(at 1k tokens)"), ("flops", "(at 10 MFLOP)")):
        assert row[NAMES[axis]].startswith("-0.051") and row[NAMES[axis]].endswith(place)


def test_at_equal_seconds_the_faster_arm_has_trained_longer(section: Section) -> None:
    text = cells(section)[NAMES["seconds"]]  # after 10 s: gemma3 3 - 1.0, m2_gpt 3 - 0.5 - 0.051
    assert text.startswith("+0.449") and text.endswith("(at 10 s)")


def test_two_arms_get_a_sentence_per_axis(section: Section) -> None:
    first = section.lines[0]
    assert first.startswith("At equal training FLOPs (10 MFLOP), m2_gpt is ahead of gemma3")
    assert any(
        line.startswith("At equal seconds (10 s), gemma3 is ahead of m2_gpt") for line in section.lines
    )


def test_seconds_of_different_machines_are_not_compared(tmp_path: Path) -> None:
    study = make_study()
    write_curves(tmp_path, study)
    machines = [replace(r, machine=Machine(cpu=f"processor {i % 2}")) for i, r in enumerate(study.results)]
    found = equal_cost(tmp_path, replace(study, results=tuple(machines)))
    assert found is not None and NAMES["seconds"] not in found.tables[0].headers


def test_a_study_without_curves_compares_with_baselines_only(tmp_path: Path) -> None:
    found = equal_cost(tmp_path, make_study())
    assert found is not None and not found.tables
    assert found.lines == [
        "Against the baselines, gemma3 and m2_gpt are ahead of unigram, bigram and trigram."
    ]


def test_without_curves_and_baselines_there_is_no_section(tmp_path: Path) -> None:
    assert equal_cost(tmp_path, make_study(baselines=False)) is None


def test_arms_that_beat_the_same_baselines_share_a_sentence() -> None:
    study = make_study()
    worse = tuple(replace(s, beats=() if s.arm == "m2_gpt" else s.beats) for s in study.summary)
    assert against_baselines(replace(study, summary=worse)) == [
        "Against the baselines, gemma3 is ahead of unigram, bigram and trigram.",
        "Against the baselines, m2_gpt is not ahead of unigram, bigram and trigram.",
    ]
