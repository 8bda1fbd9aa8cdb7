"""Damaged files of a finished study, through the command line: one line or success, and never a number that was not measured."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli import stored
from tests.mutations import answer, damaged_bytes, damaged_json, seeds

STUDY = "runs/small"
ONE = f"{STUDY}/runs/gemma1/lr-0.004_seed-0"
COMPARE, REPORT, CURVES = (
    ("compare", "small.yaml", "--threads", "1"),
    ("report", STUDY),
    ("report", STUDY, "--curves", "curves.svg"),
)
READ_BY_COMPARE = (
    *(f"{ONE}/{name}" for name in ("result.json", "config.json", "metrics.jsonl", "model.ckpt")),
    *(f"{STUDY}/{name}" for name in ("study.json", "plan.json", "certificates/mine.json")),
)
NOT_READ = (f"{STUDY}/study.yaml", f"{STUDY}/results.csv", f"{ONE}/model.ckpt.sha256")
CASES = [
    *((COMPARE, file) for file in READ_BY_COMPARE),
    (REPORT, f"{STUDY}/study.json"),
    (CURVES, f"{ONE}/metrics.jsonl"),
]
MORE_CASES = [
    *CASES,
    *((COMPARE, file) for file in NOT_READ),
    *((REPORT, file) for file in (*READ_BY_COMPARE, *NOT_READ)),
]


def check(folder: Path, seed: str, cases: list[tuple[tuple[str, ...], str]]) -> None:
    """Damage one file, run one command; whatever it answers, the stored scores are those that were measured, or refused."""
    draw = random.Random(seed)
    command, name = draw.choice(cases)
    measured = _scores(folder)
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(
        damaged_json(content.decode(), draw) if name.endswith(".json") else damaged_bytes(content, draw)
    )
    done = answer(command, folder, seed=f"{seed} ({name})")
    stored.forget()
    if done.code == 0:
        assert _scores(folder) == measured, f"seed {seed}: {name}"


def _scores(folder: Path) -> Any:
    study = json.loads((folder / STUDY / "study.json").read_text())
    timed = ("tokens_per_second", "seconds", "peak_memory_bytes")
    return [{k: v for k, v in r.items() if k not in timed} for r in study["results"]], study["verdict"]


@pytest.fixture(scope="session")
def pristine(finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder whose data, cache and home are inside it."""
    folder = tmp_path_factory.mktemp("pristine") / "work"
    shutil.copytree(finished_once, folder)
    shutil.copytree(folder / "cache", folder / ".cache/arch_lab")
    return folder


@pytest.mark.parametrize("batch", seeds(6, "damaged-run"))
def test_damaged_files_of_a_study_are_named_or_repaired(pristine: Path, tmp_path: Path, batch: str) -> None:
    for number in range(10):
        folder = tmp_path / str(number) / "work"
        shutil.copytree(pristine, folder)
        check(folder, f"{batch}-{number}", CASES)


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(300, "more-damaged-runs"))
def test_more_damaged_files_of_a_study_are_named_or_repaired(
    pristine: Path, tmp_path: Path, seed: str
) -> None:
    shutil.copytree(pristine, tmp_path / "work")
    check(tmp_path / "work", seed, MORE_CASES)
