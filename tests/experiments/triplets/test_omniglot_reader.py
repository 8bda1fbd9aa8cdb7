"""Omniglot's archives: drawings by alphabet and character, one-shot runs, and what is wrong in one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from arch_lab.data import DataError
from experiments.triplets.readers.omniglot import read_drawings, read_one_shot
from tests.experiments.triplets.triplet_files import character_members, drawing, run_members, write_zip

SMALL = "images_background_small1.zip"


def test_drawings_come_with_their_character_and_alphabet(tmp_path: Path) -> None:
    write_zip(tmp_path, SMALL, character_members(1, {"Beta": 2, "Alpha": 3}, drawings=4))
    found = read_drawings(tmp_path, 1, 10)
    assert found.ink.shape == (20, 10, 10) and found.ink.min() == 0 and found.ink.max() <= 1
    assert found.names == tuple(
        f"{a}/character{c:02}" for a, n in (("Alpha", 3), ("Beta", 2)) for c in range(1, n + 1)
    )
    assert found.alphabets == ("Alpha",) * 3 + ("Beta",) * 2
    assert found.characters.tolist() == np.repeat(np.arange(5), 4).tolist()


def test_where_on_the_paper_a_character_stands_does_not_matter(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image, ImageChops

    image = Image.open(BytesIO(drawing(3, 1)))
    moved = BytesIO()
    ImageChops.offset(image.convert("L"), 4, -3).convert("1").save(
        moved, "PNG"
    )  # nothing is so near the edge that it comes back
    folder = "images_background_small1/Alpha/character01/"
    write_zip(tmp_path, SMALL, {f"{folder}1.png": drawing(3, 1), f"{folder}2.png": moved.getvalue()})
    first, second = read_drawings(tmp_path, 1, 20).ink
    np.testing.assert_array_equal(first, second)


def test_a_run_says_which_known_drawing_shares_the_character(tmp_path: Path) -> None:
    write_zip(tmp_path, "all_runs.zip", run_members(runs=2))
    runs = read_one_shot(tmp_path, 10)
    assert len(runs) == 2 and runs[0].support.shape == runs[0].queries.shape == (20, 10, 10)
    assert runs[0].answer.tolist() == list(range(19, -1, -1))


PLACE = "images_background_small1/Alpha/character01/0001_01.png"
BAD = [
    ({PLACE: b"no png"}, r"member '.*0001_01\.png' is not an image that can be decoded"),
    ({PLACE: drawing(1, 1, size=104)}, r"member '.*' has 104 x 104 pixels, expected 105 x 105"),
    ({"images_background_small1/Alpha/character09/": b""}, "character Alpha/character09 has no drawing"),
    (
        {"images_background_small1/stray.png": drawing(1, 1)},
        "member '.*stray.png' is not under <set>/<alphabet>/<character>/",
    ),
]


@pytest.mark.parametrize(("more", "message"), BAD)
def test_what_is_wrong_with_a_member_is_one_line_with_its_name(
    more: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    path = write_zip(tmp_path, SMALL, {**character_members(1, {"Alpha": 2}, drawings=2), **more})
    with pytest.raises(DataError, match=message) as caught:
        read_drawings(tmp_path, 1, 10)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_an_empty_sheet_is_named(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    blank = BytesIO()
    Image.new("1", (105, 105), 1).save(blank, "PNG")
    write_zip(tmp_path, SMALL, {PLACE: blank.getvalue()})
    with pytest.raises(DataError, match="holds no ink"):
        read_drawings(tmp_path, 1, 10)


def test_missing_damaged_and_empty_archives_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file 'images_background_small1\.zip'"):
        read_drawings(tmp_path, 1, 10)
    path = write_zip(tmp_path, SMALL, {})
    with pytest.raises(DataError, match="the archive holds no drawings"):
        read_drawings(tmp_path, 1, 10)
    path.write_bytes(b"PK no")
    with pytest.raises(DataError, match="not a valid zip file"):
        read_drawings(tmp_path, 1, 10)
    content = bytearray(
        write_zip(tmp_path, SMALL, character_members(1, {"Alpha": 1}, drawings=1)).read_bytes()
    )
    at = content.index(b"IDAT")
    content[at + 4] ^= 0xFF  # a byte of the drawing: the checksum of the member no longer fits
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be unpacked .* the archive is damaged"):
        read_drawings(tmp_path, 1, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"run01/class_labels.txt": b"a.png\n"},
            "class_labels.txt line 1: 1 names, expected a test file and its training file",
        ),
        ({"run01/class_labels.txt": b"a.png b.png\n"}, "no member 'b.png'"),
        (
            {"run01/class_labels.txt": b"run01/test/item01.png run01/training/class20.png\n"},
            "1 trials of 1 characters, expected 20 of 20",
        ),
    ],
)
def test_a_wrong_run_is_one_line(change: dict[str, bytes], message: str, tmp_path: Path) -> None:
    write_zip(tmp_path, "all_runs.zip", {**run_members(), **change})
    with pytest.raises(DataError, match=message):
        read_one_shot(tmp_path, 10)


def test_an_archive_without_runs_is_refused(tmp_path: Path) -> None:
    write_zip(tmp_path, "all_runs.zip", {"readme.txt": b""})
    with pytest.raises(DataError, match=r"no member class_labels.txt"):
        read_one_shot(tmp_path, 10)


@pytest.mark.slow
def test_the_real_archives_have_their_published_characters() -> None:
    folder = os.environ.get("ARCH_LAB_DATA")
    if folder is None or not (Path(folder) / "omniglot").is_dir():
        pytest.skip("set ARCH_LAB_DATA to a folder that holds omniglot/")
    sets = [read_drawings(Path(folder), which, 8) for which in (1, 2)]
    assert [len(s.names) for s in sets] == [136, 156] and all(
        (np.bincount(s.characters) == 20).all() for s in sets
    )
    assert set(sets[0].alphabets) & set(sets[1].alphabets) == {"Greek", "Latin"}
    assert len(read_one_shot(Path(folder), 8)) == 20
