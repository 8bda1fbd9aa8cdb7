"""The UCI archive and the music table: what is read, what is refused and in which line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from arch_lab.data import DataError
from experiments.triplets.readers.music import MOODS, read_music
from experiments.triplets.readers.uci import UCI_SETS, UciArchive
from tests.experiments.triplets.triplet_files import uci_members, write_music, write_uci


def changed(member: str, text: str | bytes | None) -> dict[str, str | bytes]:
    members: dict[str, str | bytes] = {**uci_members(rows=10, features=2)}
    if text is None:
        del members[f"yacht/data/{member}"]
    else:
        members[f"yacht/data/{member}"] = text
    return members


def test_a_set_has_its_features_its_target_and_disjoint_splits(tmp_path: Path) -> None:
    write_uci(tmp_path, uci_members(rows=50, features=3))
    found = UciArchive(tmp_path).read("yacht")
    assert found.features.shape == (50, 3) and found.target.shape == (50,) and len(found.splits) == 2
    for train, test in found.splits:
        assert sorted([*train, *test]) == list(range(50))


def test_features_are_the_columns_the_index_names_in_its_order(tmp_path: Path) -> None:
    members = {
        **changed("data.txt", "1 2 3\n4 5 6\n"),
        "yacht/data/index_features.txt": "2\n0\n",
        "yacht/data/index_target.txt": "1\n",
    }
    members |= {
        "yacht/data/n_splits.txt": "1",
        "yacht/data/index_train_0.txt": "1\n",
        "yacht/data/index_test_0.txt": "0\n",
    }
    write_uci(tmp_path, members)
    found = UciArchive(tmp_path).read("yacht")
    assert found.features.tolist() == [[3, 1], [6, 4]] and found.target.tolist() == [2, 5]


def test_test_rows_that_stand_in_training_are_counted(tmp_path: Path) -> None:
    members = {**changed("data.txt", "1 2 3\n1 2 4\n5 6 7\n"), "yacht/data/n_splits.txt": "1"}
    members |= {"yacht/data/index_train_0.txt": "0\n2\n", "yacht/data/index_test_0.txt": "1\n"}
    write_uci(tmp_path, members)
    assert UciArchive(tmp_path).read("yacht").facts["test rows repeated in training"] == "1 of 1"


BAD = [
    ("data.txt", "1 2 3\n4 5\n", "data.txt line 2: 2 columns, line 1 has 3"),
    ("data.txt", "1 2 3\n4 x 6\n", "data.txt line 2: 'x' is not a number"),
    ("data.txt", "1 2 3\n4 nan 6\n", "data.txt line 2: 'nan' is not a finite number"),
    ("data.txt", "1 2 3\n\n4 5 6\n", "data.txt line 2: 0 columns"),
    ("data.txt", "", "data.txt: the file is empty"),
    ("data.txt", "1 2 3\n4 5 -6\n", "data.txt line 2: label -6 is outside 0 … inf"),
    ("data.txt", b"1 2 \xff\n", "byte 4 is not text"),
    ("data.txt", None, "no member yacht/data/data.txt"),
    ("index_train_1.txt", None, "no member yacht/data/index_train_1.txt"),
    ("index_features.txt", "0\n3\n", "index_features.txt line 2: 3 is not in 0 … 2"),
    ("index_features.txt", "0\n0\n", "index_features.txt: an index appears twice"),
    ("index_features.txt", "0\n2\n", "index_target.txt: expected one column that is not a feature"),
    ("index_test_0.txt", "0\n1.5\n", r"index_test_0.txt line 2: 1\.5 is not in 0 … 9"),
    ("index_test_0.txt", "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n", "is in the training rows of split 0 too"),
    ("n_splits.txt", "some\n", "n_splits.txt: expected a number of splits, got 'some'"),
]


@pytest.mark.parametrize(("member", "text", "message"), BAD)
def test_what_is_wrong_with_a_member_is_one_line_with_its_name(
    member: str, text: str | bytes | None, message: str, tmp_path: Path
) -> None:
    path = write_uci(tmp_path, changed(member, text))
    with pytest.raises(DataError, match=message) as caught:
        UciArchive(tmp_path).read("yacht")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_grade_outside_its_range_is_named_with_its_line(tmp_path: Path) -> None:
    members = uci_members("wine-quality-red", rows=10, features=2)
    members["wine-quality-red/data/data.txt"] = "1 2 5\n1 3 12\n"
    write_uci(tmp_path, members)
    with pytest.raises(DataError, match="line 2: label 12 is outside 0 … 10"):
        UciArchive(tmp_path).read("wine")


def test_missing_and_damaged_archives_and_unknown_sets_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no file 'uci_regression\.tar\.gz' in .* set --data-root or ARCH_LAB_DATA"
    ):
        UciArchive(tmp_path)
    path = write_uci(tmp_path, uci_members())
    with pytest.raises(DataError, match="unknown UCI set 'yatch'; did you mean 'yacht'"):
        UciArchive(tmp_path).read("yatch")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no archive"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"not a (sound|valid) .* fetch it again"):
            UciArchive(tmp_path)


def test_a_split_beyond_those_of_the_set_is_refused(tmp_path: Path) -> None:
    write_uci(tmp_path, uci_members())
    with pytest.raises(DataError, match="yacht: no split 2; it comes with splits 0 … 1"):
        UciArchive(tmp_path).read("yacht").split(2)


# --- moods ----------------------------------------------------------------------------------------------------------


def test_a_mood_is_a_side_of_each_axis_and_every_test_has_a_fifth_of_each_mood(tmp_path: Path) -> None:
    write_music(tmp_path)
    found = read_music(tmp_path)
    sides = list(zip(found["music_arousal"].target, found["music_valence"].target, strict=True))
    assert (
        [sides[i] for i in range(0, 40, 10)] == list(MOODS.values()) == [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    )
    train, test = found["music_arousal"].split(3)
    assert not set(train) & set(test) and len(train) + len(test) == 40
    assert np.bincount(test // 10).tolist() == [2, 2, 2, 2]
    assert (
        test.tolist()
        == found["music_valence"].split(3)[1].tolist()
        != found["music_valence"].split(4)[1].tolist()
    )


def test_a_song_that_repeats_another_is_left_out(tmp_path: Path) -> None:
    write_music(tmp_path, rows=['"happy","9","9","9"', '"happy","9","9","9"'])
    found = read_music(tmp_path)["music_valence"]
    assert len(found.target) == 41 and found.facts["repeated songs left out"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            '"hapy","1","2","3"',
            "line 42: class 'hapy' is in none of the four quadrants; did you mean 'happy'",
        ),
        ('"happy","1","2"', "line 42: 3 columns, the header has 4"),
        ('"happy","1","two","3"', "line 42: 'two' is not a number"),
        ('"happy","1","inf","3"', "line 42: 'inf' is not a finite number"),
        (
            '"happy","1","2","3"\n"sad","1","2","3"',
            "line 43: the features of a song of class 'happy' again, under 'sad'",
        ),
    ],
)
def test_a_wrong_song_is_one_line(row: str, message: str, tmp_path: Path) -> None:
    path = write_music(tmp_path, rows=[row])
    with pytest.raises(DataError, match=message) as caught:
        read_music(tmp_path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_an_empty_mood_and_a_foreign_header_are_named(tmp_path: Path) -> None:
    path = write_music(tmp_path)
    text = path.read_text()
    path.write_text("\n".join(line for line in text.splitlines() if "sad" not in line))
    with pytest.raises(DataError, match="class 'sad' has 0 songs"):
        read_music(tmp_path)
    path.write_text("Mood" + text.removeprefix("Class"))
    with pytest.raises(DataError, match=r"line 1: expected a header that starts with 'Class', got .'Mood'."):
        read_music(tmp_path)


@pytest.mark.slow
def test_the_real_sets_have_their_published_sizes() -> None:
    folder = os.environ.get("ARCH_LAB_DATA")
    if folder is None or not (Path(folder) / "uci_regression").is_dir():
        pytest.skip("set ARCH_LAB_DATA to a folder that holds uci_regression/")
    sizes = {
        "boston": (506, 13),
        "concrete": (1030, 8),
        "energy": (768, 8),
        "kin8nm": (8192, 8),
        "naval": (11934, 16),
    }
    sizes |= {"power": (9568, 4), "protein": (45730, 9), "wine": (1599, 11), "yacht": (308, 6)}
    archive = UciArchive(Path(folder))
    for name in UCI_SETS:
        found = archive.read(name)
        assert found.features.shape == sizes[name] and len(found.splits) == (5 if name == "protein" else 20)
    assert len(read_music(Path(folder))["music_arousal"].target) == 388
