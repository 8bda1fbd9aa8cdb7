"""An experiment of another package: two files, found by entry point or import path, from plan to report."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from arch_lab.cli import main
from tests.cli.terminals import ROOT

SOURCE = ROOT / "experiments" / "recall"
STUDY = {
    "description": "recall of another package",
    "experiment": "lookups",
    "arms": [
        {"architecture": "gemma3", "options": {"window": 16, "pattern": "G"}},
        {"architecture": "m2_gpt"},
    ],
    "budget": {"params": 4.0e4, "train_flops": 4.4e8, "tolerance": 0.02},
    "data": {"vocabulary": 16, "pairs": 2, "tune_rows": 8, "held_out_rows": 16},
    "training": {"sequence_length": 16, "batch_size": 4, "evaluations": 1},
    "learning_rates": [0.004],
    "seeds": [0, 1],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages: one with two modules and a study, which declares the experiment ``lookups``."""
    folder = tmp_path_factory.mktemp("site")
    package = folder / "lookup_package"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    for name in ("experiment.py", "model.py"):
        text = (SOURCE / name).read_text(encoding="utf-8")
        (package / name).write_text(text.replace("experiments.recall", "lookup_package"), encoding="utf-8")
    (package / "lookup_study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    info = folder / "lookup_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lookup-package\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(
        "[arch_lab.experiments]\nlookups = lookup_package.experiment:EXPERIMENT\nbroken = no_such_package:EXPERIMENT\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module", autouse=True)
def installed(site: Path) -> Iterator[None]:
    """The folder of packages on the path of this process."""
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()
    yield
    sys.path.remove(str(site))
    for name in [name for name in sys.modules if name.partition(".")[0] == "lookup_package"]:
        del sys.modules[name]


def arch_lab(site: Path, *arguments: str, fails: bool = False) -> str:
    """What the command prints beside the packages: its output, or its error."""
    output, error = io.StringIO(), io.StringIO()
    with contextlib.chdir(site), contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
        code = main(list(arguments))
    assert code == (2 if fails else 0), error.getvalue()
    return error.getvalue() if fails else output.getvalue()


@pytest.fixture(scope="module")
def compared(site: Path) -> dict[str, object]:
    """study.json of the package's study, run by name."""
    return json.loads(arch_lab(site, "compare", "lookup_study", "--threads", "1", "--json"))


def test_a_study_of_a_package_is_certified_trained_and_judged(
    site: Path, compared: dict[str, object]
) -> None:
    assert compared["experiment"] == "lookups" and compared["tasks"][0]["measures"][0]["higher_is_better"]
    assert [run["status"] for run in compared["results"]] == ["finished"] * 4
    assert "recall accuracy" in compared["verdict"]["text"]
    for arm in ("gemma3", "m2_gpt"):
        assert json.loads((site / f"runs/lookup_study/certificates/{arm}.json").read_text())["passed"]


def test_its_report_is_written_again_and_printed_as_markdown(site: Path, compared: dict[str, object]) -> None:
    page = site / "runs/lookup_study/report.html"
    page.unlink()
    arch_lab(site, "report", "runs/lookup_study")
    assert "recall accuracy" in page.read_text()
    assert "recall accuracy" in arch_lab(site, "report", "runs/lookup_study", "--markdown")


def test_an_edit_of_the_package_refuses_its_stored_trials(site: Path, compared: dict[str, object]) -> None:
    model = site / "lookup_package" / "experiment.py"
    text = model.read_text()
    model.write_text(text.replace("SCORED = 128", "SCORED = 64"))
    try:
        # in another process: this one has hashed the package already
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
        command = [sys.executable, "-m", "arch_lab", "compare", "lookup_study", "--threads", "1"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=site, env=environment)
        assert done.returncode == 2 and "code" in done.stderr
    finally:
        model.write_text(text)


def test_its_studies_and_keys_are_listed(site: Path) -> None:
    listed = json.loads(arch_lab(site, "list", "studies", "--json"))
    assert [study["experiment"] for study in listed if study["name"] == "lookup_study"] == ["lookups"]
    keys = arch_lab(site, "keys", "data", "--experiment", "lookups", "--json")
    assert {"data.pairs", "data.held_out_rows"} <= {
        key["path"] for section in json.loads(keys) for key in section["keys"]
    }


def test_a_study_may_name_the_experiment_by_import_path(site: Path) -> None:
    study = site / "by_path.yaml"
    study.write_text(
        yaml.safe_dump({**STUDY, "experiment": "lookup_package.experiment:EXPERIMENT"}), encoding="utf-8"
    )
    assert json.loads(arch_lab(site, "plan", "by_path.yaml", "--json"))["matched"]


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        ("lookup", "unknown experiment 'lookup'; did you mean 'lookups'?"),
        ("broken", "experiment broken = no_such_package:EXPERIMENT: ModuleNotFoundError"),
        ("lookup_package.experiment:EXPERIMENTS", "has no 'EXPERIMENTS'; did you mean 'EXPERIMENT'?"),
        (
            "lookup_package.experiment:RecallData",
            "not an instance of a subclass of arch_lab.study.Experiment",
        ),
    ],
)
def test_an_experiment_that_cannot_be_had_is_one_line(site: Path, experiment: str, message: str) -> None:
    error = arch_lab(site, "plan", "lookup_study", "--set", f"experiment={experiment}", fails=True)
    lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1 and message in lines[0]


def test_fit_needs_an_experiment_with_a_lightning_module(site: Path) -> None:
    assert "lookups has no Lightning module for a single run" in arch_lab(
        site, "fit", "--experiment", "lookups", "--json", fails=True
    )
