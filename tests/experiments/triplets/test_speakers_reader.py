"""Japanese Vowels: utterances between blank lines, speakers by their order, and what is wrong in one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from arch_lab.data import DataError
from experiments.triplets.readers.japanese_vowels import read_utterances, statistics
from tests.experiments.triplets.triplet_files import vowels, write_vowels


def test_speakers_follow_from_the_order_of_utterances(tmp_path: Path) -> None:
    for split, counts in (("train", [30] * 9), ("test", [31, 35, 88, 44, 29, 24, 40, 50, 29])):
        write_vowels(tmp_path, split)
        found = read_utterances(tmp_path, split)
        assert np.bincount(found.speakers).tolist() == counts
        assert len(found.frames) == sum(counts) and {f.shape for f in found.frames} == {(7, 12)}


def test_blank_lines_at_the_end_are_no_utterance(tmp_path: Path) -> None:
    texts = vowels("train")
    write_vowels(tmp_path, "train", [*texts[:-1], texts[-1] + "\n\n"])
    assert len(read_utterances(tmp_path, "train").frames) == 270


def test_statistics_have_one_length_whatever_the_utterance_has() -> None:
    frames = np.random.default_rng(0).normal(size=(9, 12))
    assert statistics(frames).shape == statistics(frames[:1]).shape == (48,)
    still = statistics(np.repeat(frames[:1], 5, axis=0))
    np.testing.assert_allclose(still[:12], frames[0])
    assert not still[24:].any()  # what does not move has no differences


FRAME = " ".join(["0.5"] * 12)
BAD = [
    (FRAME + "\n" + " ".join(["0.5"] * 11), "line 2: 11 coefficients, expected 12"),
    (FRAME.replace("0.5", "x", 1), "line 1: 'x' is not a number"),
    (FRAME.replace("0.5", "nan", 1), "line 1: 'nan' is not a finite number"),
    (FRAME + "\n\n\n" + FRAME, "line 3: two blank lines, so an utterance without a frame"),
]


@pytest.mark.parametrize(("first", "message"), BAD)
def test_what_is_wrong_with_a_frame_is_one_line_with_its_number(
    first: str, message: str, tmp_path: Path
) -> None:
    path = write_vowels(tmp_path, "train", [first, *vowels("train")[1:]])
    with pytest.raises(DataError, match=message) as caught:
        read_utterances(tmp_path, "train")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_speaker_left_empty_by_a_cut_file_is_named(tmp_path: Path) -> None:
    write_vowels(tmp_path, "train", vowels("train")[:210])
    with pytest.raises(
        DataError, match=r"210 utterances, expected 270, so speaker 8 has none; is the file cut off\?"
    ):
        read_utterances(tmp_path, "train")
    write_vowels(tmp_path, "train", [*vowels("train"), FRAME])
    with pytest.raises(DataError, match="271 utterances, expected 270; is"):
        read_utterances(tmp_path, "train")


def test_missing_damaged_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file 'ae\.test\.gz'"):
        read_utterances(tmp_path, "test")
    path = write_vowels(tmp_path, "test")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"ae\.test\.gz: not a valid gzip file"):
        read_utterances(tmp_path, "test")
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"ae\.test\.gz: the file is empty"):
        read_utterances(tmp_path, "test")


@pytest.mark.slow
def test_the_real_files_have_their_published_frames() -> None:
    folder = os.environ.get("ARCH_LAB_DATA")
    if folder is None or not (Path(folder) / "japanese_vowels").is_dir():
        pytest.skip("set ARCH_LAB_DATA to a folder that holds japanese_vowels/")
    assert [sum(map(len, read_utterances(Path(folder), split).frames)) for split in ("train", "test")] == [
        4274,
        5687,
    ]
