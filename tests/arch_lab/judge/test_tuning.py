"""Tuning curves: against their definition, and their bands against opda where it is installed."""

from __future__ import annotations

from itertools import combinations
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arch_lab.judge.tuning import tuning_curve

scores = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=1, max_size=9)


@given(scores)
def test_the_best_of_k_is_the_mean_over_all_subsets_of_k(y: list[float]) -> None:
    curve = tuning_curve(y)
    assert curve is not None
    for k, best in enumerate(curve.best, start=1):
        assert best == pytest.approx(mean(min(subset) for subset in combinations(y, k)), abs=1e-9)
    mirrored = tuning_curve([-score for score in y], higher_is_better=True)
    assert mirrored is not None and mirrored.best == pytest.approx([-best for best in curve.best])
    assert mirrored.low == tuple(None if v is None else -v for v in curve.high)


@pytest.mark.parametrize("n", [5, 40, 200])
def test_the_band_of_the_median_equals_opdas(n: int) -> None:
    nonparametric = pytest.importorskip("opda.nonparametric")
    y = np.random.default_rng(n).normal(size=n)
    low, _, high = nonparametric.EmpiricalDistribution.confidence_bands(y, confidence=0.95, method="dkw")
    curve = tuning_curve(y.tolist())
    assert curve is not None
    k = np.arange(1, n + 1)
    # the distribution that is lower everywhere has larger scores: it bounds the curve from above
    for ours, theirs in ((curve.high, low), (curve.low, high)):
        expected = theirs.quantile_tuning_curve(k, q=0.5, minimize=True)
        assert [
            np.inf if v is None and ours is curve.high else -np.inf if v is None else v for v in ours
        ] == (pytest.approx(expected.tolist()))


def test_a_diverged_setting_is_as_bad_as_the_worst() -> None:
    curve = tuning_curve([1.0, None, 3.0])
    assert curve is not None and curve.lost == 1 and curve.best == pytest.approx((7 / 3, 5 / 3, 1.0))
    assert curve.sensitivity == pytest.approx(4 / 3)
    assert tuning_curve([None, None]) is None


def test_an_arm_is_under_tuned_while_more_settings_still_gain() -> None:
    flat, falling = tuning_curve([2.0, 2.001, 2.002, 2.003]), tuning_curve([2.0, 2.2, 2.4, 2.6])
    assert flat is not None and not flat.is_falling
    assert falling is not None and falling.is_falling
    one = tuning_curve([2.0])
    assert one is not None and one.is_falling
