"""What a second call does in a folder that an earlier one wrote: nothing, or only what is missing."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest

from tests.cli import stored

ONE = "runs/small/runs/gemma1/lr-0.004_seed-0"


def test_a_repeated_study_writes_no_file_again(finished: Path) -> None:
    before = stored.tree(finished / "runs")
    done = stored.compare(finished)
    assert done.code == 0 and "already finished" in done.err
    assert stored.tree(finished / "runs") == before


def test_only_what_is_missing_of_a_report_is_written_again(finished: Path) -> None:
    report = finished / "runs/small/report.html"
    before = stored.tree(finished / "runs/small/runs")
    report.unlink()
    assert stored.compare(finished).code == 0
    assert report.is_file() and stored.tree(finished / "runs/small/runs") == before


def test_more_seeds_are_added_to_a_finished_study_and_say_so(finished: Path) -> None:
    before = stored.tree(finished / ONE)
    done = stored.compare(finished, "--set", "seeds=[0, 1]")
    assert done.code == 0 and "adding to the finished study in runs/small: seeds: 1" in done.err
    assert stored.tree(finished / ONE) == before
    assert len(json.loads((finished / "runs/small/study.json").read_text())["results"]) == 4


def test_a_damaged_checkpoint_is_named_and_its_run_starts_again(finished: Path) -> None:
    run = finished / ONE
    scores = json.loads((run / "result.json").read_text())
    for name in ("result.json", "model.ckpt"):
        (run / name).unlink()
    (run / "last.ckpt").write_bytes(b"no checkpoint")
    (run / "last.ckpt.sha256").write_bytes(b"\xff\xfe")
    leftover = run / ".last.ckpt.0123456789abcdef.part"
    leftover.write_bytes(b"half")
    done = stored.compare(finished)
    assert done.code == 0
    assert f"{ONE}/last.ckpt is damaged and is not used: this run starts again at step 0" in done.err
    assert json.loads((run / "result.json").read_text())["scores"] == scores["scores"]
    assert not leftover.exists() and not (run / "last.ckpt").exists()


def test_a_link_inside_a_study_is_not_followed(finished: Path, tmp_path: Path) -> None:
    run, elsewhere = finished / ONE, tmp_path / "elsewhere"
    run.rename(elsewhere)
    for name in ("result.json", "config.json"):
        (elsewhere / name).unlink()
    run.symlink_to(elsewhere)
    before = stored.tree(elsewhere)
    done = stored.compare(finished)
    assert done.code == 2 and "leads out of" in done.last
    assert stored.tree(elsewhere) == before


def test_a_full_disk_is_one_line_and_costs_no_result(finished: Path) -> None:
    """Files may hold 60,000 bytes, which weights exceed; then the limit goes and the same command goes on."""
    scores = json.loads((finished / ONE / "result.json").read_text())
    shutil.rmtree(finished / ONE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        done = stored.compare(finished)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (
        done.code == 2
        and done.last.startswith("error: cannot write ")
        and "free space or choose another folder" in done.last
    )
    assert not list((finished / "runs").rglob("*.part"))
    assert stored.compare(finished).code == 0
    assert json.loads((finished / ONE / "result.json").read_text())["scores"] == scores["scores"]


@pytest.mark.parametrize("command", [("report", "runs/small"), ("compare", "small.yaml")])
def test_a_read_only_folder_is_one_line(finished: Path, command: tuple[str, ...]) -> None:
    """A file stands where the lock would be made: what root may not write either."""
    (finished / "runs/small/.lock").mkdir()
    done = stored.run(finished, *command)
    assert done.code == 2 and done.last.startswith("error: cannot write runs/small: ")
