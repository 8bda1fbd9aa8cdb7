"""Rows of associative recall: every key is asked once, its value is the label, and splits share no row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_lab.laws.strategies import seeds
from blocks.errors import ConfigError
from experiments.recall.experiment import HELD_OUT, IGNORED, TRAIN, TUNE, RecallData, draw_rows


@settings(max_examples=40)
@given(seed=seeds(), pairs=st.integers(1, 8), spare=st.integers(0, 9), step=st.integers(0, 2**40))
def test_each_key_is_asked_once_and_its_label_is_the_value_behind_its_first_place(
    seed: int, pairs: int, spare: int, step: int
) -> None:
    data = RecallData(vocabulary=2 * pairs + spare + 2, pairs=pairs)
    tokens, labels = draw_rows(data, 4 * pairs + spare, 3, split=TRAIN, seed=seed, step=step)
    for row, label in zip(tokens, labels, strict=True):
        keys, values = row[0 : 2 * pairs : 2].tolist(), row[1 : 2 * pairs : 2].tolist()
        assert len(set(keys)) == len(set(values)) == pairs and max(keys) < data.vocabulary // 2 <= min(values)
        asked = np.flatnonzero(label != IGNORED)
        assert asked.min() >= 2 * pairs and sorted(row[asked].tolist()) == sorted(keys)
        assert label[asked].tolist() == [values[keys.index(key)] for key in row[asked]]


def test_rows_are_a_function_of_split_seed_and_step() -> None:
    data = RecallData(vocabulary=64, pairs=4)

    def rows(split: int, seed: int, step: int) -> bytes:
        return draw_rows(data, 32, 5, split=split, seed=seed, step=step)[0].tobytes()

    names = [(split, seed, step) for split in (TRAIN, TUNE, HELD_OUT) for seed in (0, 1) for step in (0, 1)]
    assert len({rows(*name) for name in names}) == len(names) and rows(*names[0]) == rows(*names[0])


def test_a_small_power_asks_most_keys_soon_and_one_spreads_them_evenly() -> None:
    places = {}
    for power in (0.01, 1.0):
        _, labels = draw_rows(
            RecallData(vocabulary=8, pairs=2, power=power), 68, 2000, split=TRAIN, seed=0, step=0
        )
        places[power] = np.nonzero(labels != IGNORED)[1].mean()
    # even: the mean of 4, 6, ..., 66 is 35; of 4000 draws it is within 5 standard errors of 0.29
    assert abs(places[1.0] - 35) < 1.5 and places[0.01] < 25


def test_more_keys_than_the_vocabulary_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="a row needs 5 different keys"):
        RecallData(vocabulary=8, pairs=5)
