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
    GLUE_METRICS,
    GlueMetric,
    MetricError,
    accuracy,
    average_precision,
    best_f1,
    confusion_matrix,
    f1,
    f1_at,
    glue_average,
    glue_metrics,
    macro_f1,
    matthews,
    ndcg,
    pearson,
    recall,
    reciprocal_rank,
    spearman,
    task_score,
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
    p, t = (rng.integers(4, size=(2, n)) / 10) if ties else rng.normal(size=(2, n)) * 10.0 ** rng.integers(-8, 9)
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
        assert macro_f1(p, t, classes) == pytest.approx(sk.f1_score(t, p, average="macro", zero_division=0), abs=1e-12)
        two = (p > 0).astype(int), (t > 0).astype(int)
        assert f1(*two) == pytest.approx(sk.f1_score(two[1], two[0], zero_division=0), abs=1e-12)


def correlations_equal_scipy_and_are_zero_where_it_has_no_number(seed: int, n: int, alike: str, ties: bool) -> None:
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


def precision_and_recall_metrics_equal_scikit_learn(seed: int, n: int, ties: bool, scale: float) -> None:
    rng = np.random.default_rng(seed)
    scores, t = scale * (rng.integers(4, size=n) / 4 if ties else rng.normal(size=n)), rng.integers(2, size=n)
    t[0] = 1
    assert average_precision(scores, t) == pytest.approx(sk.average_precision_score(t, scores), abs=1e-12)
    value, threshold = best_f1(scores, t)
    tried = [sk.f1_score(t, scores >= cut, zero_division=0) for cut in np.unique(scores)]
    assert value == pytest.approx(max(tried), abs=1e-12)
    assert value == pytest.approx(sk.f1_score(t, scores >= threshold), abs=1e-12)
    assert f1_at(scores, t) == pytest.approx(sk.f1_score(t, scores >= 0.5, zero_division=0), abs=1e-12) and value >= f1_at(scores, t)


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
    (
        precision_and_recall_metrics_equal_scikit_learn,
        {"seed": seeds(), "n": st.integers(1, 30), "ties": st.booleans(), "scale": st.sampled_from([1.0, 50.0])},
        25,
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
    assert pearson(x, y) == pytest.approx(float(pearson_corrcoef(x / x.abs().max(), y / y.abs().max())), abs=1e-8)


def test_torchmetrics_is_still_wrong_where_we_do_not_use_it() -> None:
    """When this fails it has been mended, and our formulas may go."""
    from torchmetrics.functional import matthews_corrcoef, spearman_corrcoef
    from torchmetrics.functional.classification import binary_average_precision

    zeros, one = torch.zeros(5, dtype=torch.long), torch.tensor([0, 0, 0, 0, 1])
    assert float(matthews_corrcoef(zeros, one, task="multiclass", num_classes=2)) > 0.6 and matthews(zeros, one) == 0
    small = torch.tensor([1e-7, 2e-7, 4e-7, 3e-7], dtype=torch.float64)
    assert float(spearman_corrcoef(small, small)) < 1 - 1e-8 and spearman(small, small) == pytest.approx(1, abs=1e-15)
    scores, t = torch.tensor([200.0, 300.0, 100.0]), torch.tensor([0, 1, 0])
    assert float(binary_average_precision(scores, t)) < 0.5 and average_precision(scores, t) == 1


def test_a_constant_score_has_the_prevalence_as_its_area() -> None:
    assert average_precision([0.3] * 10, [1, 0, 0, 0, 0, 0, 0, 1, 0, 0]) == pytest.approx(0.2)


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
    assert pearson(scale * x, y) == pytest.approx(pearson(x, y), abs=1e-12) == pytest.approx(stats.pearsonr(x, y).statistic)


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
        (lambda: average_precision([0.1, 0.2], [0, 0]), "no item is labelled 1"),
        (lambda: average_precision([0.1, nan], [0, 1]), "scores: nan at position 1"),
        (lambda: glue_metrics("colla", [0], [0]), "did you mean 'cola'"),
        (lambda: task_score("mrpc", {"f1": 1.0}), "no value of 'accuracy'"),
        (lambda: glue_average({"rte": 0.5}, ("rte", "cola")), "no score of 'cola'"),
        (lambda: glue_average({}, ()), "no task is named"),
    ],
)
def test_what_no_metric_can_be_taken_of_is_one_clear_error(call: Any, message: str) -> None:
    with pytest.raises(MetricError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_labels_read_as_numbers_or_booleans_are_labels() -> None:
    assert accuracy(torch.tensor([0.0, 1.0]), np.array([False, True]), 2) == 1
    assert confusion_matrix([0, 1, 1], [0, 0, 1], 2).tolist() == [[1, 1], [0, 1]]


# --- GLUE -------------------------------------------------------------------------------------------------------------


def test_a_glue_task_is_scored_by_the_mean_of_its_metrics() -> None:
    found = glue_metrics("mrpc", [1, 1, 0, 0], [1, 0, 0, 0])
    assert found == {"accuracy": 0.75, "f1": pytest.approx(2 / 3)} and task_score("mrpc", found) == pytest.approx((0.75 + 2 / 3) / 2)
    stsb = glue_metrics("stsb", [1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    assert set(stsb) == {"pearson", "spearman"} and task_score("stsb", stsb) == pytest.approx(0.5)
    assert glue_metrics("mnli_matched", [2, 1], [2, 0]) == {"accuracy": 0.5}


def test_the_two_halves_of_mnli_are_one_task_in_the_average() -> None:
    scores = {"cola": 0.6, "mnli_matched": 0.8, "mnli_mismatched": 0.9}
    assert glue_average(scores, tuple(scores)) == pytest.approx((0.6 + 0.85) / 2)
    assert glue_average(scores, ("cola", "mnli_matched")) == pytest.approx((0.6 + 0.8) / 2)


@settings(max_examples=30)
@given(seed=seeds(), n=st.integers(2, 40), task=st.sampled_from(sorted(GLUE_METRICS)), batch=st.integers(1, 12))
def test_a_glue_score_does_not_depend_on_the_batches_it_came_in(seed: int, n: int, task: str, batch: int) -> None:
    p, t = draw_numbers(seed, n, "free", True) if task == "stsb" else draw_labels(seed, n, 2, "free")
    metric = GlueMetric(task)
    for a, b in zip(torch.from_numpy(p.copy()).split(batch), torch.from_numpy(t.copy()).split(batch), strict=True):
        metric.update(a, b)
    found = {name: value.item() for name, value in metric.compute().items()}
    wanted = glue_metrics(task, p, t)
    assert found == wanted | {"score": task_score(task, wanted)}
    metric.reset()
    with pytest.raises(MetricError, match="no prediction was given"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric.compute()


def test_a_glue_metric_refuses_what_would_broadcast() -> None:
    with pytest.raises(MetricError, match=r"must be \(n,\)"):
        GlueMetric("rte").update(torch.zeros(3, 1), torch.zeros(3))


# --- ranking ----------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(seed=seeds(), q=st.integers(1, 4), n=st.integers(2, 20), k=st.integers(1, 25))
def test_ndcg_equals_scikit_learn_and_every_metric_ignores_document_order_and_scale(seed: int, q: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores, relevance = rng.normal(size=(q, n)), rng.integers(3, size=(q, n))
    relevance[:, 0] = 1
    assert ndcg(scores, relevance, k) == pytest.approx(sk.ndcg_score(relevance, scores, k=k), abs=1e-12)
    tied = np.round(scores)
    order = rng.permutation(n)
    for measure in (lambda s, r: ndcg(s, r, k), lambda s, r: recall(s, r, k), lambda s, r: reciprocal_rank(s, r)):
        assert measure(tied[:, order], relevance[:, order]) == pytest.approx(measure(tied, relevance), abs=1e-15)
        assert measure(np.exp(tied), relevance) == pytest.approx(measure(tied, relevance), abs=1e-15)
        assert 0 <= measure(tied, relevance) <= 1


def test_ranking_by_hand() -> None:
    """Relevant at places 2 and 4 of 5; a perfect ranking; and a scorer that likes everything alike stands last."""
    scores, relevance = [[5.0, 4.0, 3.0, 2.0, 1.0]], [[0, 1, 0, 1, 0]]
    assert recall(scores, relevance, 2) == 0.5 and recall(scores, relevance, 9) == 1
    assert reciprocal_rank(scores, relevance) == 0.5 and reciprocal_rank(scores, relevance, 1) == 0
    assert ndcg(scores, relevance) == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / (1 + 1 / np.log2(3)))
    assert ndcg([[1.0, 5.0, 0.0, 4.0, 2.0]], relevance) == 1 == ndcg([[1.0, 5.0, 0.0, 4.0, 2.0]], relevance, 1)
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
