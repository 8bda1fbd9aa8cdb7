"""Building CUDA C++ on first use: what the real nvcc makes of the sources, and what the cache does with a compiler that misbehaves."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blocks.kernels import sources
from blocks.kernels.cuda_launch import launch, load
from blocks.kernels.nvcc import build
from blocks.kernels.sources import KernelError, kernel_source

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "block_diagonal_gemm.cu"
ELEMENTS = ("float", "Bf16", "Fp16")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for '\w+'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers(.*?)$",
    re.S | re.M,
)
# the quick run compiles what training uses most, all else is slow
KINDS = [
    pytest.param(name, element, arch, marks=() if (element, arch) == ("Bf16", "sm_90") else pytest.mark.slow)
    for name in (SOURCE, "monarch.cu")
    for element in ELEMENTS
    for arch in ("sm_80", "sm_90")
]


@needs_nvcc
@pytest.mark.parametrize("name, element, arch", KINDS)
def test_no_kernel_spills_registers(name: str, element: str, arch: str, tmp_path: Path) -> None:
    command = [
        "nvcc",
        "-O3",
        "-std=c++17",
        f"-arch={arch}",
        "-Xptxas",
        "-v",
        "-cubin",
        f"-DARCH_LAB_ELEMENT={element}",
    ]
    done = subprocess.run(
        [*command, str(kernel_source(name)), "-o", str(tmp_path / "out.cubin")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    entries = ENTRY.findall(done.stderr)
    bodies = {SOURCE: 4, "monarch.cu": 9}[name] * (2 if element == "float" else 1)  # float: FMA and tf32
    assert len(entries) == bodies + 1  # and the reduction
    for kernel, stores, loads, registers, rest in entries:
        assert (stores, loads) == ("0", "0"), f"{kernel} spills"
        assert int(registers) <= 255
        static = re.search(r"(\d+) bytes smem", rest)  # shared memory is asked for at the launch
        assert static is None or int(static[1]) <= 48 * 1024


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc on PATH")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCH_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return build(SOURCE, element="Bf16", arch="sm_90")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no CUDA device")
def test_a_launch_without_a_driver_is_an_error_with_its_cuda_name(built: Path) -> None:
    x, weight, y = (torch.zeros(size, dtype=torch.bfloat16) for size in ((2, 8), (2, 4, 4), (2, 8)))
    with pytest.raises(
        KernelError, match=r"^block_diagonal_linear: cudaError(InsufficientDriver|NoDevice) \(\d+\), \w+"
    ):
        launch(
            load(built), "block_diagonal_linear", x, weight, None, y, 2, 2, 4, 4, 0, 0, ctypes.c_void_p(None)
        )
    assert y.abs().max() == 0


def test_a_library_that_is_damaged_says_what_to_remove(tmp_path: Path) -> None:
    (tmp_path / "damaged.so").write_bytes(b"not a library")
    with pytest.raises(KernelError, match=r"damaged\.so does not load: .*; remove it to build it again"):
        load(tmp_path / "damaged.so")


# Below nvcc is a script: it writes its version and arguments down and makes an output of one line, or fails as told.


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "bin" / "nvcc"
    script.parent.mkdir()
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ARCH_LAB_CACHE", str(tmp_path / "cache"))
    behave(script)
    return script


def behave(
    script: Path, version: str = "release 13.0", then: str = 'for out; do :; done; echo built > "$out"'
) -> None:
    script.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\necho "$@" >> {script.parent}/calls\n{then}\n'
    )
    script.chmod(0o755)
    os.utime(
        script, ns=(0, hash((version, then)) & 0xFFFFFFFF)
    )  # two versions within one tick of the clock are still two


def calls(script: Path) -> list[str]:
    log = script.parent / "calls"
    return log.read_text().splitlines() if log.exists() else []


def test_the_second_call_builds_nothing_and_says_nothing(
    nvcc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = build(SOURCE, element="Bf16", arch="sm_90")
    assert capsys.readouterr() == (
        "",
        "arch-lab: building block_diagonal_gemm.cu (bf16) for sm_90, once, about 5 s\n",
    )
    assert build(SOURCE, element="Bf16", arch="sm_90") == first and first.read_text() == "built\n"
    assert capsys.readouterr().err == "" and len(calls(nvcc)) == 1
    assert "-arch=sm_90 -DARCH_LAB_ELEMENT=Bf16" in calls(nvcc)[0]
    assert list(first.parent.iterdir()) == [first]


def test_number_type_architecture_and_version_each_have_a_library(nvcc: Path) -> None:
    libraries = {build(SOURCE, element=e, arch=a) for e in ELEMENTS for a in ("sm_80", "sm_90")}
    behave(nvcc, version="release 13.1")
    libraries.add(build(SOURCE, element="Bf16", arch="sm_90"))
    assert len(libraries) == 7 == len(calls(nvcc))


@pytest.mark.parametrize("changed", [SOURCE, "block_gemm.cuh", "tile.cuh", "numbers.cuh"])
def test_a_changed_source_or_header_is_built_again(
    nvcc: Path, changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "cuda"
    shutil.copytree(kernel_source(SOURCE).parent, copy)
    monkeypatch.setattr(sources, "_PLACES", (copy,))
    before = build(SOURCE, element="Bf16", arch="sm_90")
    with (copy / changed).open("a") as file:
        file.write("// changed\n")
    assert build(SOURCE, element="Bf16", arch="sm_90") != before
    assert len(calls(nvcc)) == 2


def test_a_missing_header_is_named(nvcc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lonely.cu").write_text('#include "gone.cuh"\n')
    monkeypatch.setattr(sources, "_PLACES", (tmp_path,))
    with pytest.raises(KernelError, match=r"kernel source .*gone\.cuh cannot be read \(No such file"):
        build("lonely.cu", element="Bf16", arch="sm_90")


@pytest.mark.parametrize(
    "then, reason",
    [
        (
            'echo note; echo "x.cu(3): error: no such type" >&2; exit 2',
            r"nvcc failed on block_diagonal_gemm\.cu: x\.cu\(3\): error: no such type",
        ),
        (
            "echo 'nvcc fatal   : Unsupported gpu architecture' >&2; exit 1",
            "nvcc failed on .*: nvcc fatal   : Unsupported gpu architecture",
        ),
        ("exit 3", "nvcc failed on .*: exit code 3"),
        ("exit 0", "nvcc failed on .*: it reported success and wrote nothing"),
    ],
)
def test_a_broken_nvcc_gives_its_reason_and_leaves_nothing_behind(
    nvcc: Path, then: str, reason: str, tmp_path: Path
) -> None:
    behave(nvcc, then=then)
    with pytest.raises(KernelError, match=reason) as raised:
        build(SOURCE, element="Bf16", arch="sm_90")
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "cache" / "kernels").iterdir()) == []


def test_a_program_that_is_no_program_is_said_not_to_run(nvcc: Path) -> None:
    nvcc.write_bytes(b"\x7fELF broken")
    with pytest.raises(KernelError, match=r"nvcc --version: .*nvcc does not run"):
        build(SOURCE, element="Bf16", arch="sm_90")


def test_without_nvcc_the_error_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    with pytest.raises(KernelError, match=r"no nvcc on PATH or in \$CUDA_HOME/bin"):
        build(SOURCE, element="Bf16", arch="sm_90")


def test_nvcc_is_found_under_cuda_home(nvcc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert build(SOURCE, element="Bf16", arch="sm_90").is_file()


def test_a_cache_that_cannot_be_written_names_the_variable_to_set(
    nvcc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ARCH_LAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        KernelError,
        match=r"cannot write to the kernel cache .*; set ARCH_LAB_CACHE to a folder that can be written",
    ):
        build(SOURCE, element="Bf16", arch="sm_90")
    assert calls(nvcc) == []


def test_the_cache_follows_the_users_cache_folder(
    nvcc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARCH_LAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert build(SOURCE, element="Bf16", arch="sm_90").parent == tmp_path / "xdg" / "arch_lab" / "kernels"


@pytest.mark.slow
def test_two_processes_that_build_at_once_end_with_one_whole_library(nvcc: Path, tmp_path: Path) -> None:
    """Each build waits until the other has begun, so both really run."""
    wait = f"touch {tmp_path}/begun-$$; while [ $(ls {tmp_path} | grep -c begun) -lt 2 ]; do sleep 0.05; done"
    behave(nvcc, then=f'{wait}; for out; do :; done; echo whole > "$out"')
    code = "from blocks.kernels.nvcc import build; print(build('block_diagonal_gemm.cu', element='Bf16', arch='sm_90'))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {process.communicate(timeout=120)[0].strip() for process in both}
    (library,) = answers
    assert len(calls(nvcc)) == 2 and Path(library).read_text() == "whole\n"
    assert [file.name for file in Path(library).parent.iterdir()] == [Path(library).name]
