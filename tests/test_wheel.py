"""The wheel holds everything, and what is installed from it works outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without isolation: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("arch_lab-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def outside(installed: Path, folder: Path, *arguments: str) -> str:
    """Output of a Python command that finds arch-lab in ``installed`` and stands in a folder of its own."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}  # comes before the checkout, editable or not
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_ships_studies_and_kernel_sources(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    studies = {str(f.relative_to(ROOT)) for f in (ROOT / "experiments").rglob("*.yaml")}
    sources = {
        f"blocks/_cuda_src/{f.relative_to(ROOT / 'cuda')}"
        for f in (ROOT / "cuda").rglob("*")
        if f.is_file() and "__pycache__" not in f.parts
    }
    assert "experiments/perplexity/quickstart.yaml" in studies
    assert studies | sources <= names


def test_the_wheel_ships_every_module_and_nothing_else(wheel: Path) -> None:
    # Triton kernels are Python files too, but sources, not modules: the test above holds them
    names = {
        n
        for n in zipfile.ZipFile(wheel).namelist()
        if n.endswith(".py") and not n.startswith("blocks/_cuda_src/")
    }
    modules = {
        str(f.relative_to(ROOT))
        for package in ("arch_lab", "blocks", "experiments")
        for f in (ROOT / package).rglob("*.py")
    }
    assert names == modules


def test_the_installed_package_is_the_one_that_answers(installed: Path, tmp_path: Path) -> None:
    where = outside(
        installed,
        tmp_path,
        "-c",
        "import arch_lab, blocks, experiments; print(arch_lab.__file__, blocks.__file__, experiments.__file__)",
    )
    assert where.count(str(installed)) == 3


def test_the_installed_package_lists_its_blocks(installed: Path, tmp_path: Path) -> None:
    assert json.loads(outside(installed, tmp_path, "-m", "arch_lab", "blocks", "--json"))


def test_the_installed_package_finds_its_studies(installed: Path, tmp_path: Path) -> None:
    listed = json.loads(outside(installed, tmp_path, "-m", "arch_lab", "plan", "--list", "--json"))
    assert "quickstart" in {study["name"] for study in listed}


def test_the_installed_package_plans_a_study_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    planned = json.loads(outside(installed, tmp_path, "-m", "arch_lab", "plan", "quickstart", "--json"))
    assert planned["matched"] and {arm["architecture"] for arm in planned["arms"]} >= {"gemma3", "m2_gpt"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_the_installed_package_finds_a_kernel_source_and_builds_it(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCH_LAB_CACHE", str(tmp_path / "cache"))
    code = """
from blocks.kernels.cuda_launch import load
from blocks.kernels.nvcc import build
from blocks.kernels.sources import kernel_source
library = build("block_diagonal_gemm.cu", element="Bf16", arch="sm_90")
load(library).block_diagonal_linear
print(kernel_source("block_diagonal_gemm.cu"), library, sep="\\n")
"""
    source, library = outside(installed, tmp_path, "-c", code).split()
    assert Path(source) == installed / "blocks" / "_cuda_src" / "block_diagonal_gemm.cu"
    assert Path(library).parent == tmp_path / "cache" / "kernels"
