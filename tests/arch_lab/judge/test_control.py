"""A/A controls and power: closed forms, simulations with nothing trained, and a study with twins."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from small_study import small_study

import arch_lab
from arch_lab.judge.control import control_pairs, control_warnings, noise_of, twin_of
from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.power import detectable_effect, pooled_deviation, power
from arch_lab.judge.records import Pair, Record
from arch_lab.report.markdown import markdown
from arch_lab.report.printed import detectable_line
from arch_lab.study.plan import PlannedArm

LOSS = Measure(key="loss", name="nats", higher_is_better=False)
TWIN = 1_000_000
ARMS = [{"architecture": "m2_gpt"}]


def records(values: dict[int, float], arm: str = "a") -> list[Record]:
    return [
        Record(arm=arm, learning_rate=0.1, seed=seed, status="finished", tuned=v, scores={"loss": v})
        for seed, v in values.items()
    ]


def control(own: np.ndarray, twin: np.ndarray) -> Pair:
    seeds = {TWIN + seed: seed for seed in range(len(own))}
    both = dict(enumerate(own)) | {TWIN + seed: v for seed, v in enumerate(twin)}
    (pair,) = control_pairs(records(both), [Task(measures=(LOSS,))], [PlannedArm(name="a")], seeds)
    return pair


def test_a_twin_is_paired_with_its_arm_by_place() -> None:
    pair = control(np.array([1.0, 1.2, 1.1]), np.array([1.1, 1.1, 1.1]))
    assert (pair.a, pair.b) == (twin_of("a"), "a")
    assert pair.differences == pytest.approx((0.1, -0.1, 0.0))
    assert not pair.distinguishable and not control_warnings([pair])


def test_a_twin_that_can_be_told_apart_is_warned_of() -> None:
    pair = control(np.array([1.0, 1.01, 1.02]), np.array([2.0, 2.012, 2.021]))
    assert pair.distinguishable
    assert control_warnings([pair])[0].startswith("A/A control: a (twin) − a: +1.0")


@pytest.mark.parametrize(("seeds", "published"), [(3, 3.26), (5, 1.68), (10, 1.00)])
def test_the_detectable_effect_is_the_published_one(seeds: int, published: float) -> None:
    """Two-sided paired t at 5 %, power 80 %: standard tables of the noncentral t."""
    effect = detectable_effect(1.0, seeds)
    assert effect == pytest.approx(published, abs=0.006)
    assert power(effect, 1.0, seeds) == pytest.approx(0.8, abs=1e-9)
    critical = stats.t.ppf(0.975, seeds - 1)
    shift = effect * math.sqrt(seeds)
    reference = stats.nct.sf(critical, seeds - 1, shift) + stats.nct.cdf(-critical, seeds - 1, shift)
    assert power(effect, 1.0, seeds) == pytest.approx(reference, abs=1e-6)


def test_no_effect_is_found_at_the_level_of_the_test() -> None:
    assert power(0.0, 1.0, 5) == pytest.approx(0.05, abs=1e-9)
    assert detectable_effect(1.0, 1) is None
    assert detectable_effect(0.0, 3) == 0


def test_noise_is_pooled_around_zero() -> None:
    pairs = [control(np.zeros(2), np.array([0.3, 0.4])), control(np.zeros(2), np.array([0.0, 0.0]))]
    assert pooled_deviation(pairs) == pytest.approx(math.sqrt(0.25 / 4))
    noise = noise_of(pairs, source="runs/x")
    assert noise is not None and noise.measure == "nats"
    assert noise_of([], source="") is None


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_twins_are_silent_as_often_as_the_level_says(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    draws = generator.normal(2.0, 0.01, size=(4000, 2, seeds))
    silent = sum(not control(own, twin).distinguishable for own, twin in draws)
    assert 0.94 <= silent / len(draws) <= 0.965


@pytest.mark.slow
@pytest.mark.parametrize("chance", [0.5, 0.8])
def test_a_planted_effect_is_found_as_often_as_its_power_says(chance: float) -> None:
    seeds, sets, deviation = 3, 4000, 0.01
    effect = detectable_effect(deviation, seeds, chance=chance)
    assert effect is not None
    generator = np.random.default_rng(7)
    differences = generator.normal(effect, deviation, size=(sets, seeds))
    found = sum(control(np.zeros(seeds) + 1, 1 + row).distinguishable for row in differences)
    assert abs(found / sets - chance) <= 3 * math.sqrt(chance * (1 - chance) / sets)


def test_a_study_with_twins_reports_them_apart_and_tells_the_next_its_noise(tmp_path: Path) -> None:
    changes = {"seeds": [0, 1], "control": True, "arms": ARMS}
    runs = tmp_path / "runs"
    study = arch_lab.compare(str(small_study(tmp_path, "first", **changes)), output=str(runs))
    assert study.trials == 4
    assert {record.seed for record in study.results} == {0, 1}
    assert {record.seed for record in study.control_results} == {TWIN, TWIN + 1}
    assert [(pair.a, pair.b) for pair in study.controls] == [(twin_of(a.name), a.name) for a in study.arms]
    assert "unknown" in detectable_line(study)
    assert "A/A control" in markdown(study)
    again = arch_lab.compare(str(tmp_path / "first.yaml"), output=str(runs))
    assert again == study
    second = arch_lab.compare(str(small_study(tmp_path, "second", seeds=[0], arms=ARMS)), output=str(runs))
    assert second.noise is not None and second.noise.source == str(runs / "first")
    assert detectable_line(second) == "detectable: nothing with one seed"
    assert "bits per byte or more, with 2 seeds" in detectable_line(replace(study, noise=second.noise))
