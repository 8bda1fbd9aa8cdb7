"""Zip files that expand further than they may: one line within a second, before anything is unpacked."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import pytest
import torch

from arch_lab import cli
from arch_lab.data import DataError
from arch_lab.data.archives import open_zip

SIZE = 120 << 20  # bytes of one member


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 120 MB of zeros, in about 120 kB: packed anew, which torch never does and still reads."""
    folder = tmp_path_factory.mktemp("bomb")
    torch.save(
        {"hyper_parameters": {}, "state_dict": {"model.x": torch.zeros(SIZE // 4)}}, folder / "plain.ckpt"
    )
    with zipfile.ZipFile(folder / "plain.ckpt") as plain:
        with zipfile.ZipFile(folder / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as packed:
            for name in plain.namelist():
                packed.writestr(name, plain.read(name))
    (folder / "plain.ckpt").unlink()
    return folder / "bomb.ckpt"


@pytest.mark.parametrize(
    "command", ["generate {} --prompt a", "convert {} new --to huggingface", "convert {} new --from m2-bert"]
)
def test_a_packed_checkpoint_is_refused_before_it_is_read(
    command: str, bomb: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bomb.parent)
    start = time.process_time()
    code = cli.main(command.format(bomb.name).split())
    seconds, message = time.process_time() - start, capsys.readouterr().err
    assert code == 2 and message.count("\n") == 1 and "bomb.ckpt: its members claim" in message
    assert seconds < 5 and not Path("new").exists()  # most of it imports


def test_an_archive_that_expands_too_far_is_not_opened(bomb: Path) -> None:
    start = time.process_time()
    with pytest.raises(
        DataError, match=r"bomb\.ckpt: \d+ compressed bytes expand to more than \d+, over 200 times"
    ):
        open_zip(bomb)
    assert time.process_time() - start < 1


def test_members_that_share_their_data_count_each(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", bytes(400_000))
        archive.filelist += archive.filelist * 300  # listed 301 times
    with pytest.raises(DataError, match="expand to more than"):
        open_zip(tmp_path / "a.zip")


def test_an_ordinary_archive_of_any_ratio_is_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(10 << 20))
    with open_zip(tmp_path / "a.zip") as archive:
        assert archive.read("a") == bytes(10 << 20)
