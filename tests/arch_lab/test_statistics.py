"""Intervals, paired differences, the choice of a learning rate and the words of the verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_lab.judge import statistics as stats
from arch_lab.judge import student_t


def result(arm: str, rate: float, seed: int, bits: float | None, tune: float | None = None, **more: object) -> dict:
    finished = bits is not None
    tune = bits if tune is None else tune
    values = {"perplexity": 2**bits if finished else None, "word_perplexity": 2 ** (5 * bits) if finished else None}
    head = {"arm": arm, "learning_rate": rate, "seed": seed, "status": "finished" if finished else "diverged"}
    return {**head, "bits_per_byte": bits, "tune_bits_per_byte": tune if finished else None, **values, **more}


def two_arms(a: list[float | None], b: list[float | None]) -> list[dict]:
    return [result(arm, 0.01, s, v) for arm, values in (("a", a), ("b", b)) for s, v in enumerate(values)]


CHOSEN = {"a": 0.01, "b": 0.01, "c": 0.01}


@pytest.mark.parametrize("freedom", [1, 2, 3, 4.5, 9, 29, 300])
def test_the_quantile_agrees_with_scipy(freedom: float) -> None:
    reference = pytest.importorskip("scipy.stats").t
    for probability in (1e-6, 0.001, 0.025, 0.3, 0.9, 0.975, 0.9995):
        assert student_t.quantile(probability, freedom) == pytest.approx(reference.ppf(probability, freedom), rel=1e-9)


@given(t=st.floats(-60, 60), freedom=st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_the_two_sided_tail_agrees_with_scipy(t: float, freedom: int) -> None:
    reference = pytest.importorskip("scipy.stats").t
    assert student_t.two_sided(t, freedom) == pytest.approx(2 * reference.sf(abs(t), freedom), rel=1e-8, abs=1e-300)


def test_the_median_of_the_distribution_is_zero() -> None:
    assert student_t.quantile(0.5, 3) == pytest.approx(0, abs=1e-12)


def test_three_seeds_give_the_textbook_interval() -> None:
    """t(0.975, 2) = 4.30265; s = 1 for 1, 2, 3; half-width = t / sqrt(3)."""
    interval = stats.mean_interval([1.0, 2.0, 3.0])
    assert (interval.low, interval.high) == pytest.approx((2 - 4.302652729911 / math.sqrt(3), 2 + 4.302652729911 / math.sqrt(3)))


def test_one_value_has_a_mean_but_no_interval() -> None:
    assert stats.mean_interval([1.5]) == stats.Interval(1.5, None, None, 1)


def test_no_value_has_no_mean() -> None:
    assert stats.mean_interval([]).mean is None


def test_the_interval_covers_the_truth_at_its_level() -> None:
    """500 samples of 4: coverage 0.95 with standard error 0.01; five of them are the tolerance."""
    draws = np.random.default_rng(0).normal(size=(500, 4))
    covered = np.mean([i.low <= 0 <= i.high for i in map(stats.mean_interval, draws.tolist())])
    assert covered == pytest.approx(0.95, abs=0.05)


def test_pairing_removes_what_seeds_share() -> None:
    shared = {0: 0.0, 1: 5.0, 2: -3.0}
    difference = stats.paired_difference({s: v + 0.1 + 0.001 * s for s, v in shared.items()}, shared)
    assert difference.distinguishable and difference.mean == pytest.approx(0.101)


def test_only_seeds_that_finished_on_both_sides_are_paired() -> None:
    assert stats.paired_difference({0: 1.0, 1: None, 2: 3.0, 7: 1.0}, {0: 0.5, 1: 0.5, 2: float("nan"), 3: 1.0}).n == 1


def test_a_difference_is_distinguishable_exactly_when_its_interval_excludes_zero() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        a, b = (dict(enumerate(random.normal(m, 1, 5).tolist())) for m in (0.8, 0.0))
        d = stats.paired_difference(a, b)
        assert d.distinguishable == (d.low > 0 or d.high < 0)


def test_seeds_that_change_nothing_support_no_test() -> None:
    d = stats.paired_difference(dict.fromkeys(range(5), 1.2), dict.fromkeys(range(5), 1.0))
    assert d.p_value is None and not d.distinguishable


def test_holm_is_the_step_down_correction() -> None:
    """Textbook example: 0.01, 0.04, 0.03 -> 0.03, 0.06, 0.06; a test that was not made does not count."""
    assert stats.holm([0.01, 0.04, None, 0.03]) == [pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06)]


def test_the_correction_can_refuse_what_one_pair_alone_would_claim() -> None:
    values = {"a": [1.0, 1.1, 1.2], "b": [1.10, 1.17, 1.325], "c": [1.2, 1.1, 1.4]}
    results = [result(arm, 0.01, s, v) for arm, vs in values.items() for s, v in enumerate(vs)]
    pair = stats.compare_pairs(results, CHOSEN, ["a", "b", "c"])[0]
    assert pair["p_value"] < 0.05 < pair["p_adjusted"] and "after Holm's correction over 3 pairs" in pair["text"]


def test_the_learning_rate_is_chosen_on_the_tuning_split() -> None:
    results = [result("a", 0.1, 0, 1.0, tune=3.0), result("a", 0.2, 0, 2.0, tune=2.0)]
    assert stats.select(results, ["a"]) == {"a": 0.2}


def test_a_rate_with_a_diverged_seed_loses_to_any_without() -> None:
    results = [result("a", 0.1, s, 9.0) for s in (0, 1)] + [result("a", 0.2, 0, 1.0), result("a", 0.2, 1, None)]
    assert stats.select(results, ["a"]) == {"a": 0.1}


def test_when_every_rate_diverged_somewhere_the_fewest_divergences_win() -> None:
    results = [result("a", 0.1, 0, 1.0), result("a", 0.1, 1, None), result("a", 0.1, 2, None)]
    results += [result("a", 0.2, 0, 2.0), result("a", 0.2, 1, 2.0), result("a", 0.2, 2, None)]
    assert stats.select(results, ["a"]) == {"a": 0.2}


def test_more_seeds_at_one_rate_do_not_change_the_choice() -> None:
    results = [result("a", 0.1, 0, 2.0), result("a", 0.2, 0, 1.9), result("a", 0.2, 1, 2.5)]
    assert stats.select(results, ["a"]) == {"a": 0.2}


def test_an_arm_without_results_is_not_selected() -> None:
    assert stats.select([], ["a"]) == {}


@pytest.mark.parametrize(("chosen", "word"), [(0.1, "smallest"), (0.4, "largest")])
def test_an_optimum_on_the_edge_is_warned_about(chosen: float, word: str) -> None:
    lines = stats.edge_warnings([result("a", chosen, 0, 1.0)], {"a": chosen}, [0.1, 0.2, 0.4])
    assert len(lines) == 1 and word in lines[0]


def test_an_optimum_inside_the_grid_is_not_warned_about() -> None:
    assert stats.edge_warnings([result("a", 0.2, 0, 1.0)], {"a": 0.2}, {"a": [0.1, 0.2, 0.4]}) == []


def test_a_single_rate_is_called_untuned() -> None:
    assert "not tuned" in stats.edge_warnings([result("a", 0.2, 0, 1.0)], {"a": 0.2}, [0.2])[0]


def test_the_better_arm_is_the_one_with_fewer_bits() -> None:
    text = stats.verdict(two_arms([1.00, 1.01, 1.02], [1.04, 1.052, 1.061]), CHOSEN, ["a", "b"], "1M parameters")["text"]
    assert text.startswith("At 1M parameters, a is better than b (b − a = +0.0410 [0.0385, 0.0435] bits per byte")


def test_an_unclear_difference_is_called_not_distinguishable() -> None:
    text = stats.verdict(two_arms([1.0, 1.1, 1.2], [1.1, 1.0, 1.25]), CHOSEN, ["a", "b"])["text"]
    assert "a is better" not in text and "not distinguishable" in text


def test_the_budget_may_be_given_as_the_study_holds_it() -> None:
    budget = {"params": 1_000_000, "train_flops": 12e12, "tokens": None, "match_on": "body+head"}
    text = stats.verdict(two_arms([1.0, 1.01], [1.2, 1.22]), CHOSEN, ["a", "b"], budget)["text"]
    assert text.startswith("At 1M body+head parameters and 12 TFLOP of training, ")


def test_one_seed_supports_no_verdict() -> None:
    out = stats.verdict(two_arms([1.0], [2.0]), CHOSEN, ["a", "b"])
    assert out["text"].startswith("One seed cannot support a verdict") and not out["pairs"][0]["distinguishable"]


def test_diverged_runs_are_counted_and_named() -> None:
    text = stats.verdict(two_arms([1.0, 1.01, 1.02, 1.0], [1.1, 1.111, None, 1.102]), CHOSEN, ["a", "b"])["text"]
    assert "3 paired seeds" in text and "1 of 8 runs: b at learning rate 0.01 (seed 2)" in text


def test_an_arm_that_never_finished_leaves_no_verdict() -> None:
    assert "no verdict" in stats.verdict(two_arms([1.0, 1.1], [None, None]), CHOSEN, ["a", "b"])["text"]


def test_unmatched_budgets_are_said_first() -> None:
    text = stats.verdict(two_arms([1.0, 1.1], [1.2, 1.31]), CHOSEN, ["a", "b"], "1M parameters", matched=False)["text"]
    assert text.startswith("The budgets are not matched") and "At 1M" not in text


def test_a_lone_arm_is_compared_with_nothing() -> None:
    out = stats.verdict([result("a", 0.01, 0, 1.0)], CHOSEN, ["a"])
    assert out["pairs"] == [] and "nothing is compared" in out["text"]


def test_three_arms_are_told_apart_in_one_sentence() -> None:
    values = {"a": [1.0, 1.01, 1.02, 1.0], "b": [1.5, 1.51, 1.521, 1.502], "c": [1.0, 1.012, 1.018, 1.001]}
    results = [result(arm, 0.01, s, v) for arm, vs in values.items() for s, v in enumerate(vs)]
    text = stats.verdict(results, CHOSEN, [{"name": n} for n in values])["text"]
    assert "a is better than b" in text and "c is better than b" in text and "a and c are not distinguishable" in text


def test_a_baseline_inside_the_interval_is_not_beaten() -> None:
    baselines = [{"name": "far", "bits_per_byte": 2.0}, {"name": "near", "bits_per_byte": 1.12}]
    row = stats.summary(two_arms([1.0, 1.1, 1.2], []), CHOSEN, ["a"], baselines)[0]
    assert row["beats"] == ["far"]


def test_the_mean_perplexity_is_that_of_the_mean_loss() -> None:
    row = stats.summary(two_arms([1.0, 2.0, 3.0], []), CHOSEN, ["a"], [])[0]
    assert row["perplexity"]["mean"] == pytest.approx(2 ** row["bits_per_byte"]["mean"])


def test_a_summary_of_an_arm_that_diverged_everywhere_is_empty_not_an_error() -> None:
    row = stats.summary(two_arms([None, None], []), CHOSEN, ["a"], [{"name": "far", "bits_per_byte": 2.0}])[0]
    assert (row["bits_per_byte"]["mean"], row["beats"], row["diverged_seeds"]) == (None, [], [0, 1])
