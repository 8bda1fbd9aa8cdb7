"""Centroid scores and equal error rates: the published definition, and what must hold of any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from arch_lab.laws.strategies import seeds
from arch_lab.metrics import CentroidCosineScorer, MetricError, top1_eer_with_confusion, top_s_eer

CROSSINGS = ("nearest", "interpolated")


def draw(seed: int, n: int, ties: bool, better: float = 1.0) -> tuple[Any, Any, Any]:
    """Scores, wanted, confused: two of each kind at least, one wanted item not confused."""
    rng = np.random.default_rng(seed)
    wanted = rng.integers(2, size=n)
    wanted[:4] = [1, 1, 0, 0]
    scores = rng.normal(size=n) + better * wanted
    confused = rng.integers(2, size=n) & wanted
    confused[0] = 0
    return (np.round(scores) if ties else scores), wanted, confused


def published(scores: Any, wanted: Any, confused: Any) -> list[float]:
    """MCE-2018 as described: confusions leave the curve, then join the misses; mean of both rates where they lie closest.

    Every value that rounding may choose where two thresholds are equally close, that of the highest threshold first.
    """
    kept = confused == 0
    fpr, tpr, _ = roc_curve(wanted[kept], scores[kept], drop_intermediate=False)
    positives = int(wanted[kept].sum())
    fnr = ((1 - tpr) * positives + confused.sum()) / (positives + confused.sum())
    gap = np.abs(fnr - fpr)
    return [(x + y) / 2 for x, y, g in zip(fpr, fnr, gap, strict=True) if g <= gap.min() + 1e-12]


@settings(max_examples=150)
@given(seed=seeds(), n=st.integers(4, 40), ties=st.booleans())
def test_equal_error_rates_are_those_of_the_published_definition(seed: int, n: int, ties: bool) -> None:
    scores, wanted, confused = draw(seed, n, ties)
    found = top1_eer_with_confusion(scores, wanted, confused)
    assert found.confusions == confused.sum()
    assert found.rate == pytest.approx(published(scores, wanted, confused)[0], abs=1e-12)
    assert top_s_eer(scores, wanted).rate == pytest.approx(
        published(scores, wanted, 0 * confused)[0], abs=1e-12
    )


@settings(max_examples=100)
@given(seed=seeds(), n=st.integers(4, 40), ties=st.booleans(), crossing=st.sampled_from(CROSSINGS))
def test_a_rising_transform_of_the_scores_changes_no_error_rate(
    seed: int, n: int, ties: bool, crossing: Any
) -> None:
    scores, wanted, confused = draw(seed, n, ties)
    for moved in (3 * scores + 1, np.exp(scores), np.arctan(scores)):
        assert top_s_eer(moved, wanted, crossing=crossing) == top_s_eer(scores, wanted, crossing=crossing)
        again = top1_eer_with_confusion(moved, wanted, confused, crossing=crossing)
        assert again == top1_eer_with_confusion(scores, wanted, confused, crossing=crossing)


@settings(max_examples=200)
@given(seed=seeds(), n=st.integers(4, 40), ties=st.booleans(), better=st.floats(0, 3))
def test_confusions_never_lower_the_error_rate(seed: int, n: int, ties: bool, better: float) -> None:
    """Of the interpolated one, exactly; the published one reads the nearest threshold, whose grain can hide it."""
    scores, wanted, confused = draw(seed, n, ties, better)
    kept = confused == 0
    with_them = top1_eer_with_confusion(scores, wanted, confused, crossing="interpolated").rate
    assert with_them >= top_s_eer(scores[kept], wanted[kept], crossing="interpolated").rate - 1e-12


@settings(max_examples=100)
@given(seed=seeds(), n=st.integers(4, 40), crossing=st.sampled_from(CROSSINGS))
def test_scores_better_than_chance_everywhere_have_an_error_rate_of_at_most_a_half(
    seed: int, n: int, crossing: Any
) -> None:
    """Each wanted score lies above the unwanted one of its pair, so the curve lies above the diagonal."""
    rng = np.random.default_rng(seed)
    low = rng.normal(size=n)
    high = low + rng.exponential(size=n)
    rate = top_s_eer(np.concatenate([low, high]), np.repeat([0, 1], n), crossing=crossing).rate
    assert 0 <= rate <= 0.5 + 1e-12


@pytest.mark.parametrize("crossing", CROSSINGS)
def test_perfect_scores_have_no_error_and_a_constant_score_a_half(crossing: Any) -> None:
    scores, wanted = [0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]
    assert top_s_eer(scores, wanted, crossing=crossing).rate == 0
    found = top1_eer_with_confusion(scores, wanted, [0, 0, 0, 0], crossing=crossing)
    assert (found.rate, found.confusions) == (0, 0)
    assert top_s_eer([0.5] * 4, wanted, crossing=crossing).rate == 0.5


def test_an_error_rate_by_hand() -> None:
    """Falling: yes, no, yes, no, yes, no. Misses 2/3 and false 1/3 after two, 1/3 and 1/3 after three."""
    assert top_s_eer([6, 5, 4, 3, 2, 1], [1, 0, 1, 0, 1, 0]).rate == pytest.approx(1 / 3)
    # with a fourth wanted item, confused: misses 2/4 against false 1/3 after three, against 2/3 after four. Equally near: the first
    found = top1_eer_with_confusion([6, 5, 4, 3, 2, 1, 9], [1, 0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0, 1])
    assert (found.rate, found.confusions) == (pytest.approx((1 / 3 + 2 / 4) / 2), 1)


def test_the_error_rate_is_torchmetrics_up_to_the_grain_of_the_scores() -> None:
    import torch
    from torchmetrics.functional.classification import binary_eer

    scores, wanted, _ = draw(3, 400, False)
    shifted = 1 / (1 + np.exp(-scores))  # it wants probabilities
    theirs = float(binary_eer(torch.from_numpy(shifted), torch.from_numpy(wanted)))
    assert top_s_eer(scores, wanted).rate == pytest.approx(theirs, abs=1 / 150)


# --- centroids --------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(seed=seeds(), factor=st.floats(0.01, 100))
def test_a_centroid_is_the_mean_of_its_class_at_unit_length_and_scores_are_cosines(
    seed: int, factor: float
) -> None:
    rng = np.random.default_rng(seed)
    x, classes, test = rng.normal(size=(12, 5)), np.repeat(["ann", "bob", "cyd"], 4), rng.normal(size=(6, 5))
    scorer = CentroidCosineScorer(x, classes)
    assert scorer.classes.tolist() == ["ann", "bob", "cyd"]
    means = np.stack([x[classes == name].mean(axis=0) for name in scorer.classes])
    wanted = (test @ means.T) / np.linalg.norm(test, axis=1)[:, None] / np.linalg.norm(means, axis=1)
    np.testing.assert_allclose(scorer.scores(test), wanted, atol=1e-12)
    np.testing.assert_allclose(scorer.scores(factor * test), wanted, atol=1e-12)
    best, name = scorer.best(test)
    assert (best == scorer.scores(test).max(axis=1)).all()
    assert name.tolist() == [scorer.classes[i] for i in wanted.argmax(axis=1)]


def test_an_embedding_without_a_direction_scores_zero_and_a_centroid_without_one_is_refused() -> None:
    scorer = CentroidCosineScorer([[1.0, 0.0], [0.0, 2.0]], [0, 1])
    assert scorer.scores([[0.0, 0.0]]).tolist() == [[0, 0]]
    with pytest.raises(MetricError, match="class 0: its mean embedding is zero"):
        CentroidCosineScorer([[1.0, 0.0], [-1.0, 0.0]], [0, 0])


def test_well_separated_speakers_are_all_found_and_told_from_the_background() -> None:
    """The whole path: enrol, score, identify, both error rates."""
    rng = np.random.default_rng(0)
    speakers = 10 * np.eye(8)[:6]
    enrol, classes = np.repeat(speakers, 3, axis=0) + rng.normal(size=(18, 8)), np.repeat(np.arange(6), 3)
    test = np.concatenate([speakers, 10 * np.eye(8)[6:]]) + 0.5 * rng.normal(size=(8, 8))
    scores, named = CentroidCosineScorer(enrol, classes).best(test)
    wanted = np.array([1] * 6 + [0] * 2)
    confused = wanted * (named != np.arange(8))
    assert top_s_eer(scores, wanted).rate == 0 and top1_eer_with_confusion(scores, wanted, confused).rate == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_s_eer([1.0, 2.0], [1, 1]), "every item is wanted"),
        (lambda: top_s_eer([1.0, 2.0], [0, 0]), "no item is labelled 1"),
        (lambda: top_s_eer([1.0, 2.0], [0, 1], crossing="middle"), "unknown crossing 'middle'"),
        (lambda: top1_eer_with_confusion([1.0, 2.0], [0, 1], [1, 0]), "item 0 is not wanted"),
        (lambda: top1_eer_with_confusion([1.0, 2.0], [0, 1], [0, 1]), "all 1 wanted items are confused"),
        (lambda: top1_eer_with_confusion([1.0, 2.0], [0, 1], [0]), "2 and 1 items"),
        (lambda: CentroidCosineScorer([[1.0]], [0, 1]), "need one class each"),
        (lambda: CentroidCosineScorer([[1.0]], [0]).scores([[1.0, 2.0]]), "have width 2, the centroids 1"),
        (lambda: CentroidCosineScorer([[float("nan")]], [0]), "expected finite numbers"),
    ],
)
def test_trials_that_mean_nothing_are_refused(call: Any, message: str) -> None:
    with pytest.raises(MetricError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
