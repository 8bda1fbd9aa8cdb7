"""The study in the README, as printed: it parses, meets its budget and trains for long enough to mean something."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from arch_lab.cli import main

ROOT = Path(__file__).parents[2]
LEAST_STEPS = 60


def block(page: str, language: str, holds: str) -> str:
    """The first code block of a page that holds a text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return next(b for b in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL) if holds in b)


def test_the_study_of_the_readme_meets_its_budget(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study = block("README.md", "yaml", "arms:")
    module, mixer = re.findall(r'mixer: "(\w+):(\w+)"', study)[0]
    source = block("CONTRIBUTING.md", "python", "class TokenShift(SequenceMixer)")
    (tmp_path / "readme_mixers.py").write_text(source, encoding="utf-8")
    (tmp_path / "study.yaml").write_text(
        study.replace(f"{module}:{mixer}", "readme_mixers:TokenShift"), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["plan", "study.yaml", "--json"]) == 0, capsys.readouterr().err
    plan = json.loads(capsys.readouterr().out)
    assert plan["matched"] and len(plan["arms"]) == len(yaml.safe_load(study)["arms"])
    assert min(arm["steps"] for arm in plan["arms"]) >= LEAST_STEPS
