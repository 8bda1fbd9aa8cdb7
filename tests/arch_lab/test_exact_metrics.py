"""Metrics against scikit-learn, scipy and torchmetrics on a thousand drawn label sets, constant ones and ties among them."""

from __future__ import annotations

import warnings
from math import isnan, nan
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from arch_lab.laws.strategies import seeds
from arch_lab.metrics import (
    MetricError,
    accuracy,
    confusion_matrix,
    f1,
    matthews,
    ndcg,
    pearson,
    recall,
    reciprocal_rank,
    spearman,
)

ALIKE = st.sampled_from(["free", "constant predictions", "constant targets", "both constant", "equal"])


def draw_labels(seed: int, n: int, classes: int, alike: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    p, t = rng.integers(classes, size=n), rng.integers(classes, size=n)
    if alike in ("constant predictions", "both constant"):
        p[:] = p[0]
    if alike in ("constant targets", "both constant"):
        t[:] = t[0]
    return (t.copy() if alike == "equal" else p), t


def draw_numbers(seed: int, n: int, alike: str, ties: bool) -> tuple[Any, Any]:
    """Tenths, so that constants do not average to themselves; with ties, few different ones."""
    rng = np.random.default_rng(seed)
    p, t = (
        (rng.integers(4, size=(2, n)) / 10) if ties else rng.normal(size=(2, n)) * 10.0 ** rng.integers(-8, 9)
    )
    if alike in ("constant predictions", "both constant"):
        p[:] = 0.1
    if alike in ("constant targets", "both constant"):
        t[:] = 0.7
    return (t.copy() if alike == "equal" else p), t


def classification_metrics_equal_scikit_learn(seed: int, n: int, classes: int, alike: str) -> None:
    p, t = draw_labels(seed, n, classes, alike)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of one class alone, and answers
        assert accuracy(p, t, classes) == sk.accuracy_score(t, p)
        assert matthews(p, t, classes) == pytest.approx(sk.matthews_corrcoef(t, p), abs=1e-12)
        two = (p > 0).astype(int), (t > 0).astype(int)
        assert f1(*two) == pytest.approx(sk.f1_score(two[1], two[0], zero_division=0), abs=1e-12)


def correlations_equal_scipy_and_are_zero_where_it_has_no_number(
    seed: int, n: int, alike: str, ties: bool
) -> None:
    p, t = draw_numbers(seed, n, alike, ties)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
            wanted = theirs(p, t).statistic
            found = ours(p, t)
            if (p == p[0]).all() or (t == t[0]).all():
                assert isnan(wanted) and found == 0.0
            else:
                assert found == pytest.approx(wanted, abs=1e-10)


CHECKS = [
    (
        classification_metrics_equal_scikit_learn,
        {"seed": seeds(), "n": st.integers(1, 30), "classes": st.integers(2, 5), "alike": ALIKE},
        60,
    ),
    (
        correlations_equal_scipy_and_are_zero_where_it_has_no_number,
        {"seed": seeds(), "n": st.integers(2, 30), "alike": ALIKE, "ties": st.booleans()},
        200,
    ),
]


@pytest.mark.parametrize(("check", "drawn", "examples"), CHECKS)
def test_metrics_equal_their_references(check: Any, drawn: dict[str, Any], examples: int) -> None:
    settings(max_examples=examples)(given(**drawn)(check))()


@pytest.mark.slow  # nearly all of it inside the references
@pytest.mark.parametrize(("check", "drawn"), [check[:2] for check in CHECKS])
def test_metrics_equal_their_references_a_thousand_times(check: Any, drawn: dict[str, Any]) -> None:
    settings(max_examples=1000)(given(**drawn)(check))()


@settings(max_examples=40)
@given(seed=seeds(), n=st.integers(2, 30), classes=st.integers(2, 4))
def test_where_torchmetrics_is_right_it_says_the_same(seed: int, n: int, classes: int) -> None:
    from torchmetrics.functional import accuracy as theirs
    from torchmetrics.functional import f1_score, pearson_corrcoef

    p, t = draw_labels(seed, n, classes, "free")
    a, b = torch.from_numpy(p), torch.from_numpy(t)
    micro = theirs(a, b, task="multiclass", num_classes=classes, average="micro")
    assert accuracy(a, b, classes) == pytest.approx(float(micro), abs=1e-6)
    two = (a > 0).long(), (b > 0).long()
    assert f1(*two) == pytest.approx(float(f1_score(*two, task="binary")), abs=1e-6)  # its result is float32
    x, y = (torch.from_numpy(v.copy()) for v in draw_numbers(seed, n, "free", False))
    assert pearson(x, y) == pytest.approx(
        float(pearson_corrcoef(x / x.abs().max(), y / y.abs().max())), abs=1e-8
    )


def test_torchmetrics_is_still_wrong_where_we_do_not_use_it() -> None:
    """When this fails it has been mended, and our formulas may go."""
    from torchmetrics.functional import matthews_corrcoef, spearman_corrcoef

    zeros, one = torch.zeros(5, dtype=torch.long), torch.tensor([0, 0, 0, 0, 1])
    assert (
        float(matthews_corrcoef(zeros, one, task="multiclass", num_classes=2)) > 0.6
        and matthews(zeros, one) == 0
    )
    small = torch.tensor([1e-7, 2e-7, 4e-7, 3e-7], dtype=torch.float64)
    assert float(spearman_corrcoef(small, small)) < 1 - 1e-8 and spearman(small, small) == pytest.approx(
        1, abs=1e-15
    )


def test_matthews_is_exact_where_floats_would_overflow_their_digits() -> None:
    """n² t² of two million items needs 85 bits."""
    p = np.repeat([0, 1, 0, 1], [10**6, 1, 1, 10**6])
    t = np.repeat([0, 0, 1, 1], [10**6, 1, 1, 10**6])
    assert matthews(p, t) == pytest.approx(1 - 2 / (10**6 + 1), abs=1e-15)


def test_a_diverged_run_shows_as_nan_and_a_constant_one_as_zero() -> None:
    assert isnan(pearson([1.0, nan, 2.0], [1, 2, 3])) and isnan(spearman([1.0, float("inf"), 2.0], [1, 2, 3]))
    assert pearson([0.1] * 7, [1, 2, 3, 4, 5, 6, 7]) == 0 == spearman([0.1] * 7, [1, 2, 3, 4, 5, 6, 7])


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_a_correlation_does_not_depend_on_the_unit(scale: float) -> None:
    x, y = np.array([1.0, 2.0, 4.0, 3.0]), np.array([2.0, 1.0, 3.0, 5.0])
    assert (
        pearson(scale * x, y)
        == pytest.approx(pearson(x, y), abs=1e-12)
        == pytest.approx(stats.pearsonr(x, y).statistic)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy([0, 3], [0, 1], 3), "predictions: label 3 at position 1 is not in 0 … 2"),
        (lambda: f1([0, 1], [0, 2]), "targets: label 2 at position 1 is not in 0 … 1"),
        (lambda: matthews([0, -1], [0, 1]), "predictions: label -1 at position 1"),
        (lambda: accuracy([0.5, 1], [0, 1], 2), "labels must be whole numbers"),
        (lambda: accuracy([], [], 2), r"expected labels of shape \(N,\), N at least 1"),
        (lambda: accuracy([[0, 1]], [[0, 1]], 2), r"got \(1, 2\)"),
        (lambda: accuracy([0, 1, 1], [0, 1], 2), "3 and 2 items"),
        (lambda: pearson([1.0, 2.0], [1.0, nan]), "targets: nan at position 1 is not a finite number"),
        (lambda: spearman([1.0], [1.0]), "at least 2 pairs"),
        (lambda: pearson(["a", "b"], [1, 2]), "expected numbers"),
    ],
)
def test_what_no_metric_can_be_taken_of_is_one_clear_error(call: Any, message: str) -> None:
    with pytest.raises(MetricError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_labels_read_as_numbers_or_booleans_are_labels() -> None:
    assert accuracy(torch.tensor([0.0, 1.0]), np.array([False, True]), 2) == 1
    assert confusion_matrix([0, 1, 1], [0, 0, 1], 2).tolist() == [[1, 1], [0, 1]]


# --- ranking ----------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(seed=seeds(), q=st.integers(1, 4), n=st.integers(2, 20), k=st.integers(1, 25))
def test_ndcg_equals_scikit_learn_and_every_metric_ignores_document_order_and_scale(
    seed: int, q: int, n: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    scores, relevance = rng.normal(size=(q, n)), rng.integers(3, size=(q, n))
    relevance[:, 0] = 1
    assert ndcg(scores, relevance, k) == pytest.approx(sk.ndcg_score(relevance, scores, k=k), abs=1e-12)
    tied = np.round(scores)
    order = rng.permutation(n)
    for measure in (
        lambda s, r: ndcg(s, r, k),
        lambda s, r: recall(s, r, k),
        lambda s, r: reciprocal_rank(s, r),
    ):
        assert measure(tied[:, order], relevance[:, order]) == pytest.approx(
            measure(tied, relevance), abs=1e-15
        )
        assert measure(np.exp(tied), relevance) == pytest.approx(measure(tied, relevance), abs=1e-15)
        assert 0 <= measure(tied, relevance) <= 1


def test_ranking_by_hand() -> None:
    """Relevant at places 2 and 4 of 5; a perfect ranking; and a scorer that likes everything alike stands last."""
    scores, relevance = [[5.0, 4.0, 3.0, 2.0, 1.0]], [[0, 1, 0, 1, 0]]
    assert recall(scores, relevance, 2) == 0.5 and recall(scores, relevance, 9) == 1
    assert reciprocal_rank(scores, relevance) == 0.5 and reciprocal_rank(scores, relevance, 1) == 0
    assert ndcg(scores, relevance) == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3)))
    assert (
        ndcg([[1.0, 5.0, 0.0, 4.0, 2.0]], relevance) == 1 == ndcg([[1.0, 5.0, 0.0, 4.0, 2.0]], relevance, 1)
    )
    assert reciprocal_rank([[1.0] * 5], relevance) == 0.25 and recall([[1.0] * 5], relevance, 3) == 0


@pytest.mark.parametrize(
    ("scores", "relevance", "k", "message"),
    [
        ([[1.0, 2.0], [1.0, 2.0]], [[0, 1], [0, 0]], 1, "query 1 has no relevant document"),
        ([[1.0, nan]], [[0, 1]], 1, "query 0 has one that is not a finite number"),
        ([[1.0, 2.0]], [[-1, 1]], 1, "0 or more"),
        ([1.0, 2.0], [0, 1], 1, r"must both be \(queries, documents\)"),
        ([[1.0, 2.0]], [[0, 1]], 0, "k must be at least 1"),
    ],
)
def test_rankings_that_mean_nothing_are_refused(scores: Any, relevance: Any, k: int, message: str) -> None:
    for measure in (ndcg, recall, reciprocal_rank):
        with pytest.raises(MetricError, match=message):
            measure(scores, relevance, k)
