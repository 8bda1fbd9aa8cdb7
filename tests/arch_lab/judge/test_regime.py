"""Tokens per parameter, the compute-optimal size, and the words of a verdict below a bigram."""

from __future__ import annotations

import pytest

from arch_lab.judge.judge import judge
from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.records import LIMITS, Baseline, Judgement, Record
from arch_lab.judge.regime import Regime
from arch_lab.study.plan import PlannedArm

LOSS = Measure(key="loss", name="nats", higher_is_better=False)


def test_the_rule_puts_a_hundred_and_twenty_teraflop_at_a_million_parameters() -> None:
    """Chinchilla's rule: 6 · 1M · 20M FLOPs."""
    regime = Regime.of(flops_per_token=6e6, tokens=2e7)
    assert (regime.size, regime.tokens_per_parameter) == (1e6, 20)
    assert regime.best_size == pytest.approx(1e6)
    assert regime.ratio == pytest.approx(1)


@pytest.mark.parametrize(
    ("tokens", "far"), [(20 / 26, True), (20 / 24, False), (20 * 24, False), (20 * 26, True)]
)
def test_a_size_is_far_beyond_a_factor_of_five(tokens: float, far: bool) -> None:
    # at N fixed, the best size grows with the root of the tokens
    assert Regime.of(flops_per_token=6e5, tokens=1e5 * tokens).is_far is far


def judged(bigram: float | None) -> Judgement:
    scores = {"a": [1.00, 1.01, 1.02], "b": [1.50, 1.52, 1.51]}
    records = [
        Record(arm=arm, learning_rate=0.01, seed=seed, status="finished", scores={"loss": v, "tune_loss": v})
        for arm, values in scores.items()
        for seed, v in enumerate(values)
    ]
    baselines = [] if bigram is None else [Baseline(name="bigram", scores={"loss": bigram})]
    return judge(records, [Task(measures=(LOSS,))], [PlannedArm(name="a"), PlannedArm(name="b")], baselines)


@pytest.mark.parametrize(
    ("bigram", "words"),
    [(2.0, "a is better than b"), (1.2, "a starts faster than b"), (None, "a is better than b")],
)
def test_better_is_said_only_where_every_arm_beats_the_bigram(bigram: float | None, words: str) -> None:
    judgement = judged(bigram)
    assert words in judgement.verdict.text
    assert judgement.pairs[0].text.endswith(words.removesuffix(" than b"))
    assert judgement.pairs[0].better == "a"


def test_every_verdict_carries_what_it_does_not_say() -> None:
    assert judged(2.0).verdict.limits == LIMITS
