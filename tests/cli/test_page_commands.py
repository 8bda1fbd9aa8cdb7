"""Commands and code on pages without a test file of their own: CONTRIBUTING.md, certificate.md, runs.md, study_keys.md."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from arch_lab.cli import main
from arch_lab.models import Shape, recipe
from tests.cli.terminals import ROOT
from tests.small_study import small_study


def fenced(page: str, language: str, part: str = "") -> str:
    """The first block of a page in a language that contains a text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return next(
        block for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL) if part in block
    )


@pytest.fixture
def token_shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the block of CONTRIBUTING.md as my_module.py, on the import path."""
    from blocks import registry

    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    (tmp_path / "my_module.py").write_text(
        fenced("CONTRIBUTING.md", "python", "class TokenShift"), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "target", re.findall(r"^make ([\w-]+)", fenced("CONTRIBUTING.md", ""), flags=re.MULTILINE)
)
def test_a_make_target_of_contributing_exists(target: str) -> None:
    subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_the_study_of_contributing_meets_its_budget(
    token_shift: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my_study.yaml").write_text(fenced("CONTRIBUTING.md", "yaml"), encoding="utf-8")
    assert main(["plan", "my_study.yaml", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["matched"] and [arm["name"] for arm in plan["arms"]] == ["gemma3", "token_shift"]


def test_the_law_test_of_contributing_passes(token_shift: Path) -> None:
    code = fenced("CONTRIBUTING.md", "python", "laws_for").replace(
        "my_package:MyBlock", "my_module:TokenShift"
    )
    (token_shift / "test_mine.py").write_text(code, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n0",
        "--rootdir",
        ".",
        "test_mine.py",
    ]
    done = subprocess.run(
        command,
        cwd=token_shift,
        env={"PYTHONPATH": f"{ROOT}:{token_shift}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and re.search(r"\b[5-9] passed", done.stdout), done.stdout


def test_the_certificate_call_of_its_page_passes_an_honest_model() -> None:
    model = recipe("gemma3", {}).model(
        Shape(width=16, depth=1, ffn_width=16), vocabulary=1024, max_tokens=256
    )
    code = fenced("docs/certificate.md", "python")
    assert "require_causal(" in code
    exec(code, {"model": model})


@pytest.mark.parametrize(
    "command",
    re.findall(r"`(arch-lab keys[^`]*)`", (ROOT / "docs/study_keys.md").read_text(encoding="utf-8")),
)
def test_a_command_of_the_page_of_study_keys_runs(command: str) -> None:
    assert main(shlex.split(command)[1:]) == 0


@pytest.mark.slow
def test_the_command_that_show_prints_goes_on_with_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARCH_LAB_CACHE", str(tmp_path / "cache"))
    assert main(["compare", str(small_study(tmp_path)), "--output", "some runs", "--quiet"]) == 0
    study, results = (
        tmp_path / "some runs/small/study.json",
        sorted((tmp_path / "some runs").glob("**/result.json")),
    )
    study.unlink()
    results[1].unlink()
    before = results[0].stat().st_mtime_ns
    capsys.readouterr()
    assert main(["show", "some runs/small"]) == 0
    command = capsys.readouterr().out.partition("continue with: ")[2].splitlines()[0]
    assert main(shlex.split(command)[1:]) == 0
    assert study.is_file() and results[1].is_file() and results[0].stat().st_mtime_ns == before
