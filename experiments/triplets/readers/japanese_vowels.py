"""Japanese Vowels: nine men say /ae/, an utterance is 7 to 29 frames of 12 LPC cepstra.

Legend: U utterances, T frames of one, C = 12 coefficients.
Source: UCI "Japanese Vowels" (Kudo, Toyama and Shimbo 1999), ae.train and ae.test: one frame a line, a blank
line between utterances, no label: the speaker follows from the order (30 utterances each in ae.train, 31 35
88 44 29 24 40 50 29 in ae.test).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from arch_lab.data import DataError
from arch_lab.data.files import read_text
from experiments.triplets.readers.common import Array, find_in, table

FOLDER = "japanese_vowels"
COEFFICIENTS = 12
COUNTS = {"train": (30,) * 9, "test": (31, 35, 88, 44, 29, 24, 40, 50, 29)}


@dataclass(frozen=True, kw_only=True)
class Utterances:
    """``frames``: U arrays (T, C), in the order of the file; ``speakers`` (U,) 0 … 8."""

    frames: tuple[Array, ...]
    speakers: Array


def read_utterances(root: str | Path, split: str) -> Utterances:
    """``split`` train or test. Raises: DataError, one line: the file, the line and what is wrong with it."""
    path = find_in(root, FOLDER, f"ae.{split}.gz")
    frames: list[Array] = []
    text = read_text(path).rstrip()
    if not text:
        raise DataError(f"{path}: the file is empty")
    start, lines = 0, text.split("\n")
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            continue
        if start == number - 1:
            raise DataError(f"{path} line {number}: two blank lines, so an utterance without a frame")
        frames.append(_utterance(path, lines[start : number - 1], start))
        start = number
    counts = COUNTS[split]
    if len(frames) != sum(counts):
        missing = next((i for i, end in enumerate(np.cumsum(counts)) if len(frames) <= end - counts[i]), None)
        empty = "" if missing is None else f", so speaker {missing + 1} has none"
        raise DataError(
            f"{path}: {len(frames)} utterances, expected {sum(counts)}{empty}; is the file cut off?"
        )
    return Utterances(frames=tuple(frames), speakers=np.repeat(np.arange(len(counts)), counts))


def _utterance(path: Path, lines: list[str], line_offset: int) -> Array:
    rows = []
    for number, line in enumerate(lines, start=line_offset + 1):
        row = table(line, f"{path} line {number}")[0]
        if len(row) != COEFFICIENTS:
            raise DataError(f"{path} line {number}: {len(row)} coefficients, expected {COEFFICIENTS}")
        rows.append(row)
    return np.stack(rows)


def statistics(frames: Array) -> Array:
    """(4·C,): mean and standard deviation of the frames and of their differences, so that every utterance has
    one length.
    """
    steps = np.diff(frames, axis=0) if len(frames) > 1 else np.zeros_like(frames)
    return np.concatenate([frames.mean(axis=0), frames.std(axis=0), steps.mean(axis=0), steps.std(axis=0)])
