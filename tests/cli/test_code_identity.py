"""Which files a stored trial belongs to: all that it runs, and none that it does not use."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arch_lab.study.code_identity import APART

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What ``tests.cli.edited_tree`` prints in a copy of the packages."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("arch_lab", "blocks", "cuda", "experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli/stored.py", "cli/edited_tree.py", "small_study.py"):
        (copy / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, copy / "tests" / name)
    command = [sys.executable, "-m", "tests.cli.edited_tree"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_an_edit_of_any_file_that_a_trial_uses_is_refused_by_its_name(answers: Any) -> None:
    wrong = [
        line
        for names, line in answers["refused"]
        if f"holds runs of other code ({', '.join(names)} changed)" not in line
    ]
    assert len(answers["refused"]) > 15 and not wrong


def test_every_file_that_a_trial_runs_belongs_to_it(answers: Any) -> None:
    apart = [name.replace(".", "/") for name in APART]
    counted = [
        name
        for name in answers["run"]
        if not any(name == f"{path}.py" or name.startswith(f"{path}/") for path in apart)
    ]
    assert len(counted) > 40 and not set(counted) - set(answers["used"])


@pytest.mark.parametrize(
    "file",
    ["blocks/convolution/mixer.py", "arch_lab/training/optimizer.py", "experiments/perplexity/experiment.py"],
)
def test_block_training_and_experiment_belong_to_a_trial(answers: Any, file: str) -> None:
    assert file in answers["used"]


@pytest.mark.parametrize(
    "file", ["cuda/causal_conv_triton.py", "cuda/monarch_conv_triton.py", "cuda/tile.cuh"]
)
def test_kernels_of_the_operations_in_use_belong_to_a_trial(answers: Any, file: str) -> None:
    assert file in answers["used"]


@pytest.mark.parametrize("edit", ["docstrings", "unrelated"])
def test_edits_of_docstrings_and_of_unrelated_code_keep_stored_trials(answers: Any, edit: str) -> None:
    assert answers["kept"][edit] == [0, True]


@pytest.mark.parametrize("module", APART)
def test_a_module_that_is_no_part_of_a_trial_exists(module: str) -> None:
    assert importlib.util.find_spec(module) is not None
