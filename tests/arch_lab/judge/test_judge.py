"""Intervals, paired differences, the choice of a learning rate and the words of the verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_lab.judge import intervals, student_t
from arch_lab.judge.judge import judge
from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.pairs import compare_pairs
from arch_lab.judge.records import Baseline, Choice, Interval, Judgement, Record
from arch_lab.judge.selection import edge_warnings, select, wider
from arch_lab.study.plan import PlannedArm
from arch_lab.units import budget_words

ACCURACY = Measure(key="accuracy", name="accuracy", higher_is_better=True)
BITS_PER_BYTE = Measure(key="bits_per_byte", name="bits per byte")
PERPLEXITY = Measure(key="perplexity", name="token perplexity", logarithmic=True)
AT_01, AT_02 = Choice(learning_rate=0.1), Choice(learning_rate=0.2)
FAR = Baseline(name="far", scores={"bits_per_byte": 2.0})


def record(rate: float, seed: int, bits: float | None, tune: float | None = None, arm: str = "a") -> Record:
    """A trial; without bits one that diverged."""
    where = {"arm": arm, "learning_rate": rate, "seed": seed}
    if bits is None:
        return Record(**where, status="diverged")
    scores = {"bits_per_byte": bits, "perplexity": 2**bits}
    return Record(**where, tuned=bits if tune is None else tune, scores=scores)


def accurate(rate: float, value: float, arm: str = "a", seed: int = 0) -> Record:
    return Record(arm=arm, learning_rate=rate, seed=seed, tuned=value, scores={"accuracy": value})


def of_arms(**values: list[float | None]) -> list[Record]:
    """Arm -> bits of each seed."""
    return [record(0.01, s, v, arm=arm) for arm, bits in values.items() for s, v in enumerate(bits)]


def judged(
    records: list[Record],
    arms: str = "ab",
    *baselines: Baseline,
    measures: tuple[Measure, ...] = (BITS_PER_BYTE, PERPLEXITY),
    **options: object,
) -> Judgement:
    planned = [PlannedArm(name=arm) for arm in arms]
    return judge(records, [Task(measures=measures)], planned, baselines, **options)


def verdict_text(records: list[Record], arms: str = "ab", **options: object) -> str:
    return judged(records, arms, **options).verdict.text


@pytest.mark.parametrize("freedom", [1, 2, 3, 4.5, 9, 29, 300])
def test_the_quantile_agrees_with_scipy(freedom: float) -> None:
    reference = pytest.importorskip("scipy.stats").t
    for probability in (1e-6, 0.001, 0.025, 0.3, 0.9, 0.975, 0.9995):
        assert student_t.quantile(probability, freedom) == pytest.approx(
            reference.ppf(probability, freedom), rel=1e-9
        )


@given(t=st.floats(-60, 60), freedom=st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_the_two_sided_tail_agrees_with_scipy(t: float, freedom: int) -> None:
    reference = pytest.importorskip("scipy.stats").t
    assert student_t.two_sided(t, freedom) == pytest.approx(
        2 * reference.sf(abs(t), freedom), rel=1e-8, abs=1e-300
    )


def test_the_median_of_the_distribution_is_zero() -> None:
    assert student_t.quantile(0.5, 3) == pytest.approx(0, abs=1e-12)


def test_three_seeds_give_the_textbook_interval() -> None:
    """t(0.975, 2) = 4.30265; s = 1 for 1, 2, 3; half-width = t / sqrt(3)."""
    interval = intervals.mean_interval([1.0, 2.0, 3.0])
    assert (interval.low, interval.high) == pytest.approx(
        (2 - 4.302652729911 / math.sqrt(3), 2 + 4.302652729911 / math.sqrt(3))
    )


def test_one_value_has_a_mean_but_no_interval() -> None:
    assert intervals.mean_interval([1.5]) == Interval(mean=1.5, n=1)


def test_no_value_has_no_mean() -> None:
    assert intervals.mean_interval([]).mean is None


def test_the_interval_covers_the_truth_at_its_level() -> None:
    """500 samples of 4: coverage 0.95 with standard error 0.01; five of them are the tolerance."""
    draws = np.random.default_rng(0).normal(size=(500, 4))
    covered = np.mean([i.low <= 0 <= i.high for i in map(intervals.mean_interval, draws.tolist())])
    assert covered == pytest.approx(0.95, abs=0.05)


def test_pairing_removes_what_seeds_share() -> None:
    shared = {0: 0.0, 1: 5.0, 2: -3.0}
    difference = intervals.paired_difference({s: v + 0.1 + 0.001 * s for s, v in shared.items()}, shared)
    assert difference.distinguishable and difference.mean == pytest.approx(0.101)


def test_only_seeds_that_finished_on_both_sides_are_paired() -> None:
    assert (
        intervals.paired_difference(
            {0: 1.0, 1: None, 2: 3.0, 7: 1.0}, {0: 0.5, 1: 0.5, 2: float("nan"), 3: 1.0}
        ).n
        == 1
    )


def test_a_difference_is_distinguishable_exactly_when_its_interval_excludes_zero() -> None:
    random = np.random.default_rng(1)
    for _ in range(200):
        a, b = (dict(enumerate(random.normal(m, 1, 5).tolist())) for m in (0.8, 0.0))
        d = intervals.paired_difference(a, b)
        assert d.distinguishable == (d.low > 0 or d.high < 0)


def test_seeds_that_change_nothing_support_no_test() -> None:
    d = intervals.paired_difference(dict.fromkeys(range(5), 1.2), dict.fromkeys(range(5), 1.0))
    assert d.p_value is None and not d.distinguishable


def test_holm_is_the_step_down_correction() -> None:
    """Textbook example: 0.01, 0.04, 0.03 -> 0.03, 0.06, 0.06; a test that was not made does not count."""
    assert intervals.holm([0.01, 0.04, None, 0.03]) == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        None,
        pytest.approx(0.06),
    ]


def test_the_correction_can_refuse_what_one_pair_alone_would_claim() -> None:
    values = {"a": [1.0, 1.1, 1.2], "b": [1.10, 1.17, 1.325], "c": [1.2, 1.1, 1.4]}
    pair = compare_pairs({arm: dict(enumerate(scores)) for arm, scores in values.items()}, BITS_PER_BYTE)[0]
    assert pair.p_value < 0.05 < pair.p_adjusted and "after Holm's correction over 3 pairs" in pair.text


@pytest.mark.parametrize(("measure", "better"), [(BITS_PER_BYTE, "a"), (ACCURACY, "b")])
def test_the_measure_says_which_direction_is_better(measure: Measure, better: str) -> None:
    pair = compare_pairs({"a": {0: 0.1, 1: 0.2, 2: 0.3}, "b": {0: 0.7, 1: 0.81, 2: 0.9}}, measure)[0]
    assert (pair.better, pair.worse) == (better, "ab".replace(better, ""))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"a": {0: 0.5}, "b": {0: 0.7}}, "one seed cannot support a verdict"),
        ({"a": {0: 0.5, 1: 0.5}, "b": {0: 0.7, 1: 0.7}}, "no spread"),
        ({"a": {0: None}, "b": {0: 0.7}}, "no seed finished in both"),
    ],
)
def test_a_pair_that_cannot_be_tested_says_why(values: dict, reason: str) -> None:
    pair = compare_pairs(values, ACCURACY, task="sst2")[0]
    assert pair.better is None and pair.text.startswith("sst2: b − a: ") and reason in pair.text


def test_the_learning_rate_is_chosen_on_the_tune_split() -> None:
    assert select([record(0.1, 0, 1.0, tune=3.0), record(0.2, 0, 2.0, tune=2.0)], ["a"], BITS_PER_BYTE) == {
        "a": AT_02
    }


def test_the_higher_tuning_score_is_chosen_where_higher_is_better() -> None:
    assert select([accurate(0.1, 0.1), accurate(0.2, 0.2)], ["a"], ACCURACY) == {"a": AT_02}


def test_a_tie_goes_to_the_smaller_rate() -> None:
    assert select([record(0.2, 0, 1.0), record(0.1, 0, 1.0)], ["a"], BITS_PER_BYTE) == {"a": AT_01}


def test_a_rate_with_a_diverged_seed_loses_to_any_without() -> None:
    records = [record(0.1, s, 9.0) for s in (0, 1)] + [record(0.2, 0, 1.0), record(0.2, 1, None)]
    assert select(records, ["a"], BITS_PER_BYTE) == {"a": AT_01}


def test_when_every_rate_diverged_somewhere_the_fewest_divergences_win() -> None:
    records = [record(0.1, 0, 1.0), record(0.1, 1, None), record(0.1, 2, None)]
    records += [record(0.2, 0, 2.0), record(0.2, 1, 2.0), record(0.2, 2, None)]
    assert select(records, ["a"], BITS_PER_BYTE) == {"a": AT_02}


def test_more_seeds_at_one_rate_do_not_change_the_choice() -> None:
    records = [record(0.1, 0, 2.0), record(0.2, 0, 1.9), record(0.2, 1, 2.5)]
    assert select(records, ["a"], BITS_PER_BYTE) == {"a": AT_02}


def test_an_arm_without_results_is_not_selected() -> None:
    assert select([], ["a"], BITS_PER_BYTE) == {}


@pytest.mark.parametrize(
    ("rates", "selected", "more"),
    [
        ([0.1, 0.2], [0.1], [0.05]),
        ([0.1, 0.2], [0.2], [0.4]),
        ([0.1, 0.2, 0.4], [0.2], []),
        ([0.1, 0.2], [0.1, 0.2], [0.05, 0.4]),
        ([0.1], [0.1], [0.05]),
    ],
)
def test_the_grid_grows_by_its_step_at_each_edge_selected(rates: list, selected: list, more: list) -> None:
    assert wider(rates, selected) == more


@pytest.mark.parametrize(("chosen", "word"), [(0.1, "smallest"), (0.4, "largest")])
def test_an_optimum_on_the_edge_is_warned_about(chosen: float, word: str) -> None:
    records = [record(rate, 0, 1.0 + abs(rate - chosen)) for rate in (0.1, 0.2, 0.4)]
    lines = edge_warnings(records, {"a": Choice(learning_rate=chosen)}, BITS_PER_BYTE)
    assert len(lines) == 1 and word in lines[0]


def test_an_optimum_inside_the_grid_is_not_warned_about() -> None:
    records = [record(rate, 0, 1.0 + abs(rate - 0.2)) for rate in (0.1, 0.2, 0.4)]
    assert edge_warnings(records, {"a": AT_02}, BITS_PER_BYTE) == []


def test_a_single_rate_is_called_untuned() -> None:
    assert "not tuned" in edge_warnings([record(0.2, 0, 1.0)], {"a": AT_02}, BITS_PER_BYTE)[0]


def test_equal_scores_at_every_rate_are_called_no_choice() -> None:
    records = [record(rate, 0, 1.0) for rate in (0.1, 0.2, 0.4)]
    assert "the choice of 0.1 is arbitrary" in edge_warnings(records, {"a": AT_01}, BITS_PER_BYTE)[0]


def test_an_arm_that_diverged_everywhere_is_left_to_the_verdict() -> None:
    assert edge_warnings([record(0.1, 0, None), record(0.2, 0, None)], {"a": AT_01}, BITS_PER_BYTE) == []


def test_the_better_arm_is_the_one_with_fewer_bits() -> None:
    text = verdict_text(of_arms(a=[1.00, 1.01, 1.02], b=[1.04, 1.052, 1.061]), budget="1M parameters")
    assert text.startswith(
        "At 1M parameters, a is better than b (b − a = +0.0410 [0.0385, 0.0435] bits per byte"
    )


def test_an_unclear_difference_is_called_not_distinguishable() -> None:
    text = verdict_text(of_arms(a=[1.0, 1.1, 1.2], b=[1.1, 1.0, 1.25]))
    assert "a is better" not in text and "not distinguishable" in text


def test_the_budget_of_a_study_reads_as_words() -> None:
    budget = {"params": 1_000_000, "train_flops": 12e12, "tokens": None, "match_on": "body+head"}
    text = verdict_text(of_arms(a=[1.0, 1.01], b=[1.2, 1.22]), budget=budget_words(budget))
    assert text.startswith("At 1M body+head parameters and 12 TFLOP of training, ")


def test_one_seed_supports_no_verdict() -> None:
    out = judged(of_arms(a=[1.0], b=[2.0]))
    assert out.verdict.text.startswith("One seed cannot support a verdict")
    assert not out.pairs[0].distinguishable


def test_diverged_runs_are_counted_and_named() -> None:
    text = verdict_text(of_arms(a=[1.0, 1.01, 1.02, 1.0], b=[1.1, 1.111, None, 1.102]))
    assert "3 paired seeds" in text and "1 of 8 runs: b at learning rate 0.01 (seed 2)" in text


def test_an_arm_that_never_finished_leaves_no_verdict() -> None:
    assert "no verdict" in verdict_text(of_arms(a=[1.0, 1.1], b=[None, None]))


def test_unmatched_budgets_are_said_first() -> None:
    text = verdict_text(of_arms(a=[1.0, 1.1], b=[1.2, 1.31]), budget="1M parameters", matched=False)
    assert text.startswith("The budgets are not matched") and "At 1M" not in text


def test_a_lone_arm_is_compared_with_nothing() -> None:
    out = judged([record(0.01, 0, 1.0)], "a")
    assert out.pairs == () and "nothing is compared" in out.verdict.text


def test_three_arms_are_told_apart_in_one_sentence() -> None:
    records = of_arms(a=[1.0, 1.01, 1.02, 1.0], b=[1.5, 1.51, 1.521, 1.502], c=[1.0, 1.012, 1.018, 1.001])
    text = verdict_text(records, "abc")
    assert "a is better than b" in text and "c is better than b" in text
    assert "a and c are not distinguishable" in text


def test_the_best_arm_comes_first_where_higher_is_better() -> None:
    values = {"a": [0.1, 0.11, 0.12], "b": [0.5, 0.51, 0.53], "c": [0.9, 0.91, 0.92]}
    records = [accurate(0.1, v, arm, s) for arm, scores in values.items() for s, v in enumerate(scores)]
    text = verdict_text(records, "abc", measures=(ACCURACY,))
    assert text.startswith("At the same budget, c is better than a and b; b is better than a ")


def test_a_baseline_inside_the_interval_is_not_beaten() -> None:
    near = Baseline(name="near", scores={"bits_per_byte": 1.12})
    assert judged(of_arms(a=[1.0, 1.1, 1.2]), "a", FAR, near).summary[0].beats == ("far",)


def test_the_mean_perplexity_is_that_of_the_mean_loss() -> None:
    scores = judged(of_arms(a=[1.0, 2.0, 3.0]), "a").summary[0].scores
    assert scores["perplexity"].mean == pytest.approx(2 ** scores["bits_per_byte"].mean)


def test_the_summary_of_an_arm_that_diverged_everywhere_is_empty() -> None:
    row = judged(of_arms(a=[None, None]), "a", FAR).summary[0]
    assert (row.scores["bits_per_byte"].mean, row.beats, row.diverged_seeds) == (None, (), (0, 1))
