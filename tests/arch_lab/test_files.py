"""The one writer of files, and the lock of a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arch_lab import files
from arch_lab.files import OutputError

HOLD = """
import sys, time
from arch_lab.files import folder_lock
with folder_lock(sys.argv[1], "a test"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    files.write_text(tmp_path / "new/a.txt", "one\n")
    files.write_text(tmp_path / "new/a.txt", "zwei ü\n")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert (tmp_path / "new/a.txt").read_bytes() == "zwei ü\n".encode()


def test_a_writer_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.json", "old")
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", {"score": float("nan")})
    with pytest.raises(RuntimeError), files.atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_get_the_umask_of_their_user(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        files.write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_link_at_the_target_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "report.html").symlink_to(tmp_path / "precious")
    files.write_text(tmp_path / "report.html", "page")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "report.html").is_symlink()


def test_no_two_temporary_names_are_alike(tmp_path: Path) -> None:
    names = set()
    for _ in range(5):
        with files.atomic_path(tmp_path / ("n" * 250)) as temporary:
            names.add(temporary.name)
    assert len(names) == 5


def test_a_path_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "runs").symlink_to(tmp_path)
    files.inside(study, study / "certificates/arm.json")
    for path in (study / "runs/x", study / "../x"):
        with pytest.raises(OutputError, match="leads out of"):
            files.inside(study, path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OutputError, match=r"cannot write .*file/a: a file stands where a folder is needed.*--output"
    ):
        files.write_text(tmp_path / "file/a", "x")
    with (
        pytest.raises(OutputError, match=r"cannot write .*--output"),
        files.folder_lock(tmp_path / "file", "a test"),
    ):
        pass


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_held_folder_names_its_holder_until_that_dies(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    leftover = tmp_path / "runs/.model.ckpt.0123456789abcdef.part"
    files.write_text(tmp_path / "runs/results.part", "a name of the user's")
    try:
        leftover.write_text("half")
        named = rf"is in use by a test \(process {holder.pid} on .* since 20.*\); wait until it ends"
        with pytest.raises(OutputError, match=named), files.folder_lock(tmp_path, "another test"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with files.folder_lock(tmp_path, "another test"):
        assert not leftover.exists(), "a half-written file of the dead holder is removed"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["results.part", "runs"]
