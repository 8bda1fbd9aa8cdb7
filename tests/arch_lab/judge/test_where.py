"""The lines of a verdict: on which tokens a lead lies, what the order is along budgets, what equal seconds give."""

from __future__ import annotations

from typing import Any

import pytest

from arch_lab.judge.measures import Measure
from arch_lab.judge.pairs import compare_pairs
from arch_lab.judge.records import Interval, Pair, Record, Standing
from arch_lab.judge.verdict import verdict_over_budgets
from arch_lab.judge.where import RECALL, recall_part, where_it_lies
from arch_lab.metrics.recall_scores import RecallScores
from arch_lab.study.judged_sizes import equal_seconds

BITS = Measure(key="bits", name="bits per byte")


def split(recall: float, rest: float, tokens: int = 2000) -> dict[str, Any]:
    scores = RecallScores(
        at_most=10,
        recall_tokens=tokens,
        rest_tokens=98_000,
        recall_bits=recall,
        rest_bits=rest,
        positions=(1,),
        by_position=(rest,),
    )
    return {RECALL: scores.to_json()}


def record(arm: str, seed: int, facts: dict[str, Any]) -> Record:
    return Record(arm=arm, seed=seed, facts=facts, learning_rate=0.1)


def test_the_second_line_names_the_lead_on_recall_tokens_and_on_the_rest() -> None:
    records = [record("a", s, split(8.0 + 0.01 * s, 5.0)) for s in range(3)]
    records += [record("b", s, split(6.0 + 0.02 * s, 4.9 - 0.001 * s)) for s in range(3)]
    line = where_it_lies(records)
    assert "2.0%, bigrams seen at most 10 times" in line and "b − a is -1.99" in line
    assert "(recall: 29% of the lead)" in line  # 0.02 · 1.99 of 0.02 · 1.99 + 0.98 · 0.101


def test_a_lead_on_one_kind_and_a_lag_on_the_other_has_no_share() -> None:
    assert recall_part(-0.5, 0.1, 0.02) is None and recall_part(None, 0.1, 0.02) is None
    assert recall_part(-1.0, -1.0, 0.25) == pytest.approx(0.25)


def test_few_recall_tokens_are_not_reported_and_one_arm_has_no_lead() -> None:
    few = [record(arm, 0, split(8.0, 5.0, tokens=999)) for arm in "ab"]
    assert (
        where_it_lies(few)
        == "Where the difference lies is not reported: 999 recall tokens are fewer than 1,000."
    )
    assert where_it_lies(few[:1]) == "" == where_it_lies([record("a", 0, {})])


def pairs(task: str, a: list[float], b: list[float]) -> list[Pair]:
    values = {name: dict(enumerate(scores)) for name, scores in (("a", a), ("b", b))}
    return compare_pairs(values, BITS, task=task)


@pytest.mark.parametrize(
    ("small", "words"),
    [
        ([3.0, 3.02, 3.01], "The order is the same at every budget."),
        ([1.0, 1.02, 1.01], "another at 1 TFLOP."),
    ],
)
def test_a_verdict_over_budgets_is_about_the_largest_and_says_where_the_order_turns(
    small: list[float], words: str
) -> None:
    every = [*pairs("1", small, [2.0, 2.01, 2.02]), *pairs("2", [2.0, 2.02, 2.01], [1.0, 1.01, 1.02])]
    text = verdict_over_budgets(every, {"1": "1 TFLOP", "2": "2 TFLOP"}, "And more.")
    assert text.startswith(
        "At 2 TFLOP of training, each arm at its best size, b is better than a (95 % level"
    )
    assert words in text and text.endswith("And more.")


def test_equal_seconds_take_the_best_run_that_was_as_fast() -> None:
    standings = [
        Standing(arm=arm, seconds=seconds, scores={"bits": Interval(mean=1.0, n=1)})
        for arm, seconds in (("a", 10.0), ("b", 20.0))
    ]

    def run(arm: str, seconds: float, score: float) -> Record:
        return Record(arm=arm, seconds=seconds, tuned=score, scores={"bits": score})

    records = [run("a", 10, 2.0), run("a", 9, 2.5), run("b", 20, 1.0), run("b", 10.4, 1.8)]
    text = equal_seconds(standings, records, BITS)
    assert text == ("At equal seconds (10 s of training, best run within it): a 2.000 and b 1.800.")
    assert equal_seconds(standings[:1], records, BITS) == ""
    slow = [Standing(arm="c", seconds=90.0, scores={}), *standings]
    text = equal_seconds(slow, [*records, run("c", 15.0, 1.5), run("c", 90, 0.5)], BITS)
    assert (
        text.startswith("At equal seconds (15 s") and "c 1.500" in text
    )  # the shortest in which every arm has a run
