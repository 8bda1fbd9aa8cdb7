"""The split of a loss by what a window lets a model recall: against a naive count, guards, a whole study."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_study import small_study

import arch_lab
from arch_lab.metrics.ngram import NGram
from arch_lab.metrics.recall_scores import RecallScores
from arch_lab.metrics.recall_split import RecallSplit, repeated
from arch_lab.report.markdown import markdown
from experiments.perplexity.recall_split import RECALL, sections_of

VOCABULARY = 12


def bigrams(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(ids[:-1].astype(np.int64) * VOCABULARY + ids[1:], return_counts=True)


def split_of(ids: np.ndarray, *, length: int, at_most: int, special: int | None = None) -> RecallSplit:
    widths = torch.ones(VOCABULARY, dtype=torch.int32)
    if special is not None:
        widths[special] = 0
    return RecallSplit(bigrams(ids), widths, length=length, at_most=at_most)


@given(keys=st.lists(st.lists(st.integers(0, 5), min_size=7, max_size=7), min_size=1, max_size=4))
def test_a_key_is_repeated_where_its_row_had_it_before(keys: list[list[int]]) -> None:
    expected = [[key in row[:i] for i, key in enumerate(row)] for row in keys]
    assert repeated(torch.tensor(keys)).tolist() == expected


@given(seed=st.integers(0, 2**32 - 1), at_most=st.integers(0, 6))
def test_the_split_is_that_of_a_count_by_hand(seed: int, at_most: int) -> None:
    generator = np.random.default_rng(seed)
    train, windows = generator.integers(VOCABULARY, size=200), generator.integers(VOCABULARY, size=(3, 21))
    counts = {tuple(map(int, pair)): 0 for pair in pairwise(train)}
    for pair in pairwise(train):
        counts[tuple(map(int, pair))] += 1
    tokens = torch.from_numpy(windows)
    nats = torch.rand(3, 20, generator=torch.Generator().manual_seed(seed % 1000))
    valid = torch.from_numpy(generator.random((3, 20)) < 0.8)
    split = split_of(train, length=20, at_most=at_most, special=0)
    split.update(nats, tokens[:, :-1], tokens[:, 1:], valid)
    sums = {True: [0.0, 0], False: [0.0, 0]}
    for b in range(3):
        pairs = [tuple(map(int, windows[b, t : t + 2])) for t in range(20)]
        for t, pair in enumerate(pairs):
            if valid[b, t] and pair[1] != 0:
                kind = pair in pairs[:t] and counts.get(pair, 0) <= at_most  # type: ignore[arg-type]
                sums[kind][0] += float(nats[b, t])
                sums[kind][1] += 1
    scores = split.scores()
    assert (scores.recall_tokens, scores.rest_tokens) == (sums[True][1], sums[False][1])
    for value, (total, number) in ((scores.recall_bits, sums[True]), (scores.rest_bits, sums[False])):
        assert (value is None) == (number == 0)
        assert value is None or value == pytest.approx(total / number / math.log(2), rel=1e-6)


def test_positions_are_means_of_whole_bins() -> None:
    split = split_of(np.arange(12), length=100, at_most=0)
    nats = torch.arange(1.0, 101.0)[None] * math.log(2)
    tokens = torch.zeros(1, 100, dtype=torch.long)
    split.update(nats, tokens, tokens, torch.ones(1, 100, dtype=torch.bool))
    scores = split.scores()
    assert scores.positions[0] == 1 and scores.positions[-1] == 100
    starts = (0, *scores.positions[:-1])
    for first, last, value in zip(starts, scores.positions, scores.by_position, strict=True):
        assert value == pytest.approx((first + 1 + last) / 2)


def test_a_model_of_the_last_token_alone_gains_nothing_on_recall_tokens() -> None:
    """A bigram scores them as its own table does, which is badly: they are rare. A model that copies scores them well."""
    generator = np.random.default_rng(0)
    train = generator.integers(VOCABULARY, size=4000)
    ngram = NGram(train, generator.integers(VOCABULARY, size=500), VOCABULARY)
    phrase = generator.integers(VOCABULARY, size=16)
    window = np.concatenate([phrase, phrase, phrase])
    bigram = -torch.from_numpy(ngram.log_probabilities(window, 1))[None]
    copier = torch.full_like(bigram, math.log(VOCABULARY))
    copier[:, 16:] = 0.01
    tokens = torch.from_numpy(window)[None]
    results = []
    for nats in (bigram, copier):
        split = split_of(train, length=47, at_most=10**6)
        split.update(nats, tokens[:, :-1], tokens[:, 1:], torch.ones_like(nats, dtype=torch.bool))
        results.append(split.scores())
    assert results[0].recall_tokens == results[1].recall_tokens
    assert results[0].recall_bits == pytest.approx(math.log2(VOCABULARY), rel=0.1)
    assert results[1].recall_bits == pytest.approx(0.01 / math.log(2), rel=0.5)


def test_every_arm_of_a_study_is_split_on_the_same_tokens(tmp_path: Path) -> None:
    changes = {
        "seeds": [0, 1],
        "training": {"sequence_length": 128, "batch_size": 2, "evaluations": 1},
        "objective": {"recall_at_most": 10**9},  # every bigram that the window repeats
        "budget": {"params": 6.0e4, "tokens": 2560},
    }
    study = arch_lab.compare(str(small_study(tmp_path, **changes)), output=str(tmp_path / "runs"))
    splits = [RecallScores.from_json(record.facts[RECALL]) for record in study.results]
    assert len({(s.recall_tokens, s.rest_tokens) for s in splits}) == 1
    for record, split in zip(study.results, splits, strict=True):
        mean = split.share * (split.recall_bits or 0) + (1 - split.share) * (split.rest_bits or 0)
        assert mean == pytest.approx(math.log2(record.scores["perplexity"]), rel=1e-5)
    assert splits[0].is_enough
    text = markdown(study)
    assert "Where the difference lies" in text and "Loss on recall tokens" in text


def test_too_few_recall_tokens_are_not_reported(tmp_path: Path) -> None:
    arms = [{"architecture": "m2_gpt"}]
    study = arch_lab.compare(str(small_study(tmp_path, arms=arms)), output=str(tmp_path / "runs"))
    (section,) = sections_of(study)
    assert section.text[-1] == "Fewer than 1,000 recall tokens are too few to report."
    assert [table.title for table in section.tables] == ["loss by position"]
