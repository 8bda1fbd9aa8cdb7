"""Turkish music emotion: 50 acoustic features per song and four moods.

Each mood is read as two targets on the axes of the circumplex.

Legend: N songs, F = 50 features.
Source: UCI "Turkish Music Emotion" (Er and Aydilek 2019), Acoustic_Features.csv: 100 songs a mood. The set
has **no continuous label**. Its moods are the four quadrants of Russell's circumplex (1980), so each names a
side of two axes, and the targets here are those sides: arousal -1 (relax, sad) or 1 (happy, angry); valence
-1 (sad, angry) or 1 (happy, relax). That is derived, not annotated. 12 songs repeat another's features digit
for digit: the repetitions are left out, or they would stand on both sides of a split.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from arch_lab.data import DataError
from arch_lab.data.files import read_text
from blocks.errors import did_you_mean
from experiments.triplets.readers.common import Array, RegressionSet, find_in, finite

FOLDER, FILE = "turkish_music_emotion", "Acoustic_Features.csv"
AXES = ("arousal", "valence")
MOODS = {"happy": (1.0, 1.0), "angry": (1.0, -1.0), "relax": (-1.0, 1.0), "sad": (-1.0, -1.0)}  # by axis
SPLITS, TEST_SHARE = 20, 0.2


def read_music(root: str | Path) -> dict[str, RegressionSet]:
    """``music_arousal`` and ``music_valence``: the same songs and splits under two targets.

    Raises: DataError, one line.
    """
    path = find_in(root, FOLDER, FILE)
    rows = list(csv.reader(io.StringIO(read_text(path))))
    if not rows or rows[0][0] != "Class":
        raise DataError(
            f"{path} line 1: expected a header that starts with 'Class', got {(rows or [['']])[0][:1]}"
        )
    moods: list[str] = []
    features: list[list[float]] = []
    mood_of_song: dict[tuple[str, ...], str] = {}
    for number, row in enumerate(rows[1:], start=2):
        location = f"{path} line {number}"
        if len(row) != len(rows[0]):
            raise DataError(f"{location}: {len(row)} columns, the header has {len(rows[0])}")
        if row[0] not in MOODS:
            raise DataError(
                f"{location}: class {row[0]!r} is in none of the four quadrants{did_you_mean(row[0], MOODS)}"
            )
        values = [finite(cell, location) for cell in row[1:]]
        if mood_of_song.setdefault(tuple(row[1:]), row[0]) != row[0]:
            raise DataError(
                f"{location}: the features of a song of class {mood_of_song[tuple(row[1:])]!r} again, "
                f"under {row[0]!r}"
            )
        if len(mood_of_song) > len(moods):
            moods.append(row[0])
            features.append(values)
    classes = np.array(moods)
    for mood in MOODS:
        if (classes == mood).sum() < 5:
            raise DataError(
                f"{path}: class {mood!r} has {(classes == mood).sum()} songs; a split of 80 to 20 % needs 5"
            )
    splits = tuple(_split(classes, k) for k in range(SPLITS))
    facts = {"repeated songs left out": len(rows) - 1 - len(moods)}
    return {
        f"music_{axis}": RegressionSet(
            name=f"music_{axis}",
            features=np.array(features),
            target=np.array([MOODS[mood][i] for mood in moods]),
            splits=splits,
            facts={
                "target": (
                    f"side of the {axis} axis that the mood lies on, −1 or 1: "
                    "derived from the quadrants, not annotated"
                ),
                **facts,
            },
        )
        for i, axis in enumerate(AXES)
    }


def _split(classes: Array, seed: int) -> tuple[Array, Array]:
    """Of every mood a fifth for the test, drawn by ``seed``."""
    draw = np.random.default_rng(seed)
    train, test = [], []
    for mood in MOODS:
        songs = draw.permutation(np.flatnonzero(classes == mood))
        test_count = round(TEST_SHARE * len(songs))
        test.append(songs[:test_count])
        train.append(songs[test_count:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))
