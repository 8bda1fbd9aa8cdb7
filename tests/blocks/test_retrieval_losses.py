"""Losses of retrieval: what they are, what they do not depend on, where they end."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from blocks.errors import ConfigError
from blocks.losses import in_batch_nce, pairwise_m2


def vectors(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )


@given(n=st.integers(1, 6), extra=st.integers(0, 5), seed=st.integers(0, 2**16))
def test_in_batch_contrast_does_not_depend_on_the_order_of_the_batch(n: int, extra: int, seed: int) -> None:
    q, d = vectors(n, 8, seed=seed), vectors(n + extra, 8, seed=seed + 1)
    draw = torch.Generator().manual_seed(seed)
    left_out = torch.rand(n, n + extra, generator=draw) < 0.3
    rows, columns = torch.randperm(n, generator=draw), torch.randperm(n + extra, generator=draw)
    place = torch.arange(n)
    before = in_batch_nce(q, d, place, temperature=0.1, left_out=left_out)
    after = in_batch_nce(
        q[rows], d[columns], columns.argsort()[rows], temperature=0.1, left_out=left_out[rows][:, columns]
    )
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)


def test_in_batch_contrast_is_the_formula_written_out() -> None:
    q, d = vectors(2, 4, seed=0), vectors(3, 4, seed=1)
    each = [
        math.log(sum(math.exp(float(q[i] @ d[j]) / 0.5) for j in range(3))) - float(q[i] @ d[i]) / 0.5
        for i in range(2)
    ]
    assert float(in_batch_nce(q, d, torch.tensor([0, 1]), temperature=0.5)) == pytest.approx(
        sum(each) / 2, rel=1e-12
    )


def test_a_document_left_out_is_no_negative_and_the_positive_always_counts() -> None:
    q, d = vectors(1, 4, seed=0), vectors(3, 4, seed=1)
    place = torch.tensor([0])
    without = in_batch_nce(q, d[:2], place, temperature=0.1)
    left_out = torch.tensor([[True, False, True]])
    torch.testing.assert_close(in_batch_nce(q, d, place, temperature=0.1, left_out=left_out), without)
    assert float(in_batch_nce(q, d, place, temperature=0.1, left_out=torch.ones(1, 3, dtype=torch.bool))) == 0


@given(n=st.integers(1, 4), k=st.integers(0, 5), seed=st.integers(0, 2**16))
def test_the_pairwise_loss_lies_between_minus_its_negatives_and_two_more_than_they(
    n: int, k: int, seed: int
) -> None:
    loss = float(
        pairwise_m2(vectors(n, 3, seed=seed), vectors(n, 3, seed=seed + 1), vectors(n, k, 3, seed=seed + 2))
    )
    assert -k - 1e-12 <= loss <= 2 + k + 1e-12


def test_the_pairwise_loss_reaches_both_ends() -> None:
    q = vectors(2, 3, seed=0)
    opposite = -q[:, None].expand(2, 4, 3)
    assert float(pairwise_m2(q, q, opposite)) == pytest.approx(-4, abs=1e-12)
    assert float(pairwise_m2(q, -q, -opposite)) == pytest.approx(6, abs=1e-12)


def test_no_row_of_the_pairwise_loss_knows_of_another() -> None:
    q, p, n = vectors(3, 5, seed=0), vectors(3, 5, seed=1), vectors(3, 2, 5, seed=2)
    each = [pairwise_m2(q[i : i + 1], p[i : i + 1], n[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(pairwise_m2(q, p, n), torch.stack(each).mean(), rtol=1e-12, atol=1e-12)


def test_shapes_and_temperatures_that_make_no_sense_are_refused() -> None:
    q, d, place = vectors(2, 4, seed=0), vectors(3, 4, seed=1), torch.tensor([0, 1])
    for broken in (
        lambda: in_batch_nce(q, d, place, temperature=0.0),
        lambda: in_batch_nce(q, d[:, :3], place, temperature=0.1),
        lambda: in_batch_nce(q, d, place[:1], temperature=0.1),
        lambda: in_batch_nce(q, d, place, temperature=0.1, left_out=torch.ones(3, 2, dtype=torch.bool)),
        lambda: in_batch_nce(q, d, place, temperature=0.1, left_out=torch.ones(2, 3)),
        lambda: pairwise_m2(q, d, d[None]),
        lambda: pairwise_m2(q, q, q),
        lambda: pairwise_m2(q, q, vectors(2, 3, 5, seed=0)),
    ):
        with pytest.raises(ConfigError):
            broken()
