"""Batch order is a function of (seed, step); evaluation scores every token but the first, once."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_lab.data import (
    DataError,
    OrderedLoader,
    TokenSplit,
    WindowOrder,
    evaluation_batches,
    evaluation_windows,
)
from blocks.errors import ConfigError

relaxed = settings(deadline=None, max_examples=80)
sizes = st.tuples(
    st.integers(1, 9), st.integers(1, 5), st.integers(0, 60)
)  # T, B, ids beyond the fewest possible


def counting(tokens):
    """A split whose ids are their own places."""
    ids = np.arange(tokens, dtype=np.uint32)
    return TokenSplit(
        name="train", ids=ids, bytes=tokens, words=1, documents=1, fingerprint=f"count-{tokens}"
    )


def order_of(size, seed):
    tokens, batch, more = size
    return WindowOrder(counting(batch * tokens + 1 + more), tokens=tokens, batch=batch, seed=seed)


@relaxed
@given(sizes, st.integers(0, 2**64 - 1), st.lists(st.integers(0, 200), min_size=1, max_size=6))
def test_a_batch_depends_on_seed_and_step_only(size, seed, steps):
    asked = order_of(size, seed)
    for step in steps:  # in any order, again and again
        assert torch.equal(asked.batch(step), order_of(size, seed).batch(step))


@relaxed
@given(sizes, st.integers(0, 100), st.integers(0, 5))
def test_an_epoch_covers_each_window_at_most_once_and_misses_less_than_a_batch(size, seed, epoch):
    order = order_of(size, seed)
    first = epoch * order.steps_per_epoch
    starts = np.concatenate([order.starts(first + i) for i in range(order.steps_per_epoch)])
    assert len(set(starts.tolist())) == len(starts) > order.windows - order.batch_size
    assert len(set((starts % order.tokens).tolist())) == 1  # one offset an epoch: inputs never overlap
    assert starts.min() >= 0 and starts.max() + order.tokens < order.split.tokens


@relaxed
@given(sizes, st.integers(0, 100), st.integers(0, 50))
def test_a_window_holds_consecutive_ids(size, seed, step):
    batch = order_of(size, seed).batch(step)
    assert batch.dtype == torch.int64 and batch.shape == (size[1], size[0] + 1)
    assert torch.equal(batch, batch[:, :1] + torch.arange(size[0] + 1))


def test_epochs_and_seeds_differ_in_order_and_offset():
    order = WindowOrder(counting(1000), tokens=10, batch=1, seed=0)
    epochs = [
        [int(order.starts(e * order.steps_per_epoch + i)[0]) for i in range(order.steps_per_epoch)]
        for e in range(20)
    ]
    assert len({tuple(starts) for starts in epochs}) == 20
    assert len({starts[0] % 10 for starts in epochs}) > 5
    other = WindowOrder(counting(1000), tokens=10, batch=1, seed=1)
    assert [int(other.starts(i)[0]) for i in range(20)] != epochs[0][:20]


def test_the_order_is_the_same_on_every_machine_and_version():
    """Recorded once: a change here breaks every resumed run and every published comparison."""
    order = WindowOrder(counting(101), tokens=10, batch=2, seed=7)
    assert [order.starts(step).tolist() for step in (0, 3, 4, 40)] == [[72, 32], [62, 42], [23, 83], [30, 80]]


@relaxed
@given(sizes, st.integers(0, 20), st.integers(0, 20))
def test_resuming_equals_never_having_stopped(size, seed, stop):
    steps = 20
    whole = [batch["tokens"] for batch in OrderedLoader(order_of(size, seed), steps=steps)]
    first = OrderedLoader(order_of(size, seed), steps=steps)
    seen = [batch["tokens"] for batch in islice(first, stop)]
    second = OrderedLoader(order_of(size, seed), steps=steps)
    second.load_state_dict(first.state_dict())
    assert len(second) == steps
    seen += [batch["tokens"] for batch in islice(second, steps - stop)]
    assert torch.equal(torch.stack(seen), torch.stack(whole))


def test_a_second_pass_goes_on_in_the_order():
    loader, longer = (OrderedLoader(order_of((4, 2, 30), 0), steps=steps) for steps in (5, 10))
    passes = [batch["tokens"] for _ in range(2) for batch in loader]
    assert torch.equal(torch.stack(passes), torch.stack([batch["tokens"] for batch in longer]))


def test_a_state_taken_inside_a_step_points_to_the_next():
    loader = OrderedLoader(order_of((4, 2, 30), 0), steps=5)
    next(iter(loader))
    assert loader.state_dict()["step"] == 1


def test_a_state_of_another_order_is_refused():
    state = OrderedLoader(order_of((4, 2, 30), 0), steps=5).state_dict()
    with pytest.raises(ConfigError, match="seed 0, this run 1"):
        OrderedLoader(order_of((4, 2, 30), 1), steps=5).load_state_dict(state)


@relaxed
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 30))
def test_ranks_share_the_global_batch(world, rows, step):
    order = order_of((3, world * rows, 40), 5)
    parts = [order.batch(step, rank=rank, world=world) for rank in range(world)]
    together = torch.stack(parts, dim=1).reshape(world * rows, 4)
    assert torch.equal(together, order.batch(step))


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="multiple of 2"):
        OrderedLoader(order_of((4, 3, 30), 0), steps=5, rank=0, world=2)


def test_too_few_tokens_for_a_batch_are_refused():
    with pytest.raises(DataError, match=r"train split has 40 tokens.*needs 41"):
        WindowOrder(counting(40), tokens=10, batch=4, seed=0)


@relaxed
@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 6))
def test_every_token_but_the_first_is_scored_exactly_once(length, tokens, batch):
    scored = [
        targets[valid]
        for _, targets, valid in evaluation_batches(counting(length), tokens=tokens, batch=batch)
    ]
    assert torch.cat(scored).tolist() == list(range(1, length))


@relaxed
@given(st.integers(2, 60), st.integers(1, 12), st.integers(2, 6))
def test_evaluation_windows_do_not_depend_on_the_batch(length, tokens, batch):
    alone = [
        torch.cat(part)
        for part in zip(*evaluation_batches(counting(length), tokens=tokens, batch=1), strict=True)
    ]
    together = [
        torch.cat(part)
        for part in zip(*evaluation_batches(counting(length), tokens=tokens, batch=batch), strict=True)
    ]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len(alone[0]) == evaluation_windows(counting(length), tokens=tokens)


@relaxed
@given(st.integers(2, 60), st.integers(1, 12))
def test_a_target_is_the_id_after_its_input(length, tokens):
    for inputs, targets, valid in evaluation_batches(counting(length), tokens=tokens, batch=2):
        assert torch.equal(targets[valid], inputs[valid] + 1)


def test_a_split_of_one_token_has_nothing_to_score():
    with pytest.raises(DataError, match="scoring needs 2"):
        next(evaluation_batches(counting(1), tokens=4, batch=1))
