"""Omniglot's small background sets, and its one-shot runs: drawings of characters from archives of PNG files.

Legend: N drawings, S x S pixels of a reduced one.
Source: brendenlake/omniglot, python/ (Lake, Salakhutdinov and Tenenbaum 2015):
<set>/<alphabet>/character<nn>/<id>_<drawer>.png, 105 x 105, ink black, 20 drawings a character;
run<nn>/class_labels.txt names the training file that each test file shares its character with. Greek and
Latin stand in both small sets, drawing for drawing. A drawing is cut out around its ink, brought to S x S and
blurred by a
pixel: where on the paper somebody wrote, and how large, says nothing about what (cosines of raw pixels name
less than half as many one-shot drawings).
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from arch_lab.data import DataError
from arch_lab.data.archives import open_zip
from experiments.triplets.readers.common import Array, find_in

FOLDER = "omniglot"
SIDE = 105
FRAME = 1.2  # side of the square that is cut out, in longer sides of the ink
TRIALS = 20  # classes and test items of a one-shot run


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """``ink`` (N, S, S) float64, 0 paper to 1 ink; ``characters`` (N,) index into ``names``; ``alphabets``:
    of every name.
    """

    ink: Array
    characters: Array
    names: tuple[str, ...]
    alphabets: tuple[str, ...]


def read_drawings(root: str | Path, volume: int, side: int) -> Drawings:
    """images_background_small<which>, reduced to ``side``.

    Raises: DataError, one line, also for a character without a drawing.
    """
    path = find_in(root, FOLDER, f"images_background_small{volume}.zip")
    with _Archive(path) as archive:
        drawings: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, folder in archive.entries:
            parts = PurePosixPath(name).parts
            if folder and len(parts) == 3:
                drawings[parts[1], parts[2]]
            elif not folder and name.endswith(".png"):
                if len(parts) != 4:
                    raise DataError(f"{path}: member {name!r} is not under <set>/<alphabet>/<character>/")
                drawings[parts[1], parts[2]].append(name)
        if not drawings:
            raise DataError(f"{path}: the archive holds no drawings")
        ink, characters = [], []
        for i, (alphabet, character) in enumerate(sorted(drawings)):
            members = sorted(drawings[alphabet, character])
            if not members:
                raise DataError(f"{path}: character {alphabet}/{character} has no drawing")
            ink += [archive.ink(name, side) for name in members]
            characters += [i] * len(members)
    return Drawings(
        ink=np.stack(ink),
        characters=np.array(characters),
        names=tuple("/".join(key) for key in sorted(drawings)),
        alphabets=tuple(alphabet for alphabet, _ in sorted(drawings)),
    )


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """A run of twenty trials: which of the ``support`` drawings shows the same character?

    ``answer`` (trials,) is an index into it.
    """

    support: Array  # (classes, S, S)
    queries: Array  # (trials, S, S)
    answer: Array


def read_one_shot(root: str | Path, side: int) -> list[OneShot]:
    """The runs of all_runs.zip, in order. Raises: DataError, one line."""
    path = find_in(root, FOLDER, "all_runs.zip")
    runs = []
    with _Archive(path) as archive:
        labels = sorted(
            name
            for name, folder in archive.entries
            if not folder and PurePosixPath(name).name == "class_labels.txt"
        )
        if not labels:
            raise DataError(f"{path}: no member class_labels.txt; is it the archive of one-shot runs?")
        for member in labels:
            pairs = [
                line.split()
                for line in archive.read(member).decode("utf-8", "replace").splitlines()
                if line.strip()
            ]
            for number, pair in enumerate(pairs, start=1):
                if len(pair) != 2:
                    raise DataError(
                        f"{path}: {member} line {number}: {len(pair)} names, "
                        "expected a test file and its training file"
                    )
            support = sorted({train for _, train in pairs})
            runs.append(
                OneShot(
                    support=np.stack([archive.ink(name, side) for name in support]),
                    queries=np.stack([archive.ink(test, side) for test, _ in pairs]),
                    answer=np.array([support.index(train) for _, train in pairs]),
                )
            )
            if len(support) != TRIALS or len(pairs) != TRIALS:
                raise DataError(
                    f"{path}: {member}: {len(pairs)} trials of {len(support)} characters, "
                    f"expected {TRIALS} of {TRIALS}"
                )
    return runs


class _Archive:
    """A zip file of drawings whose errors name the member."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decoded = _decoder()
        self._zip = open_zip(path)
        self.entries = [(info.filename, info.is_dir()) for info in self._zip.infolist()]

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except KeyError:
            raise DataError(f"{self.path}: no member {name!r}; is the archive complete?") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise DataError(
                f"{self.path}: member {name!r} cannot be unpacked ({error}); the archive is damaged"
            ) from None

    def ink(self, name: str, side: int) -> Array:
        return self._decoded(self.path, name, self.read(name), side)


def _decoder() -> Callable[[Path, str, bytes, int], Array]:
    try:
        from PIL import Image, ImageFilter, ImageOps
    except ImportError:
        raise DataError("reading PNG needs Pillow; install it (pip install pillow)") from None

    def decode(path: Path, name: str, content: bytes, side: int) -> Array:
        try:
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                if (width, height) != (SIDE, SIDE):  # by its header: decoding could fill the memory
                    raise DataError(
                        f"{path}: member {name!r} has {width} x {height} pixels, expected {SIDE} x {SIDE}"
                    )
                ink = ImageOps.invert(image.convert("L"))
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for files it cannot read
            raise DataError(
                f"{path}: member {name!r} is not an image that can be decoded "
                f"({' '.join(str(error).split())})"
            ) from None
        box = ink.getbbox()
        if box is None:
            raise DataError(f"{path}: member {name!r} holds no ink")
        left, top, right, bottom = box
        half = FRAME * max(right - left, bottom - top) / 2
        x, y = (left + right) / 2, (top + bottom) / 2
        square = ink.crop(
            (round(x - half), round(y - half), round(x + half), round(y + half))
        )  # beyond the paper there is no ink
        small = square.resize((side, side), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(1))
        pixels: np.ndarray[Any, Any] = np.asarray(small)
        return pixels.astype(np.float64) / 255

    return decode
