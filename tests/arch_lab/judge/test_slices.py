"""Slices, laws and forecasts from records that follow known laws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import pytest

from arch_lab.judge.forecast import Forecast, expected, outcomes
from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.records import Record
from arch_lab.judge.scaling import ScalingLaw
from arch_lab.judge.slices import Slices, frontiers, slices_of
from blocks.errors import ConfigError

LAWS = {
    "slow": ScalingLaw(E=1.2, A=60.0, alpha=0.35, B=150.0, beta=0.38),
    "fast": ScalingLaw(E=1.2, A=45.0, alpha=0.35, B=110.0, beta=0.38),
}
BITS = Measure(key="bits", name="bits")
BUDGETS = [1e11, 3e11, 1e12, 3e12]
TASKS = [Task(name=f"{flops:g}", measures=(BITS,)) for flops in BUDGETS]
SIZES = [16_000, 32_000, 64_000, 128_000, 256_000]


@dataclass(frozen=True)
class Model:
    flops_per_token: float


MODELS = {(arm, size, task.name): Model(6.0 * size) for arm in LAWS for size in SIZES for task in TASKS}


def records(*, seeds: int = 1, noise: float = 0.0, draws: int = 2) -> list[Record]:
    """A record of every arm, size, budget, draw and seed; draw 0 is the best, and meets the law."""
    made = []
    for (arm, law), size, (task, flops), draw, seed in product(
        LAWS.items(), SIZES, zip(TASKS, BUDGETS, strict=True), range(draws), range(seeds)
    ):
        tokens = flops / 6 / size
        off = noise * ((seed * 7 + SIZES.index(size) * 3 + TASKS.index(task)) % 5 - 2)
        loss = law.loss(size, tokens) + 0.05 * draw + off
        made.append(
            Record(
                task=task.name,
                arm=arm,
                size=size,
                draw=draw,
                learning_rate=0.01 * (draw + 1),
                seed=seed,
                tuned=loss + 0.01,
                scores={"bits": loss},
                tokens=round(tokens),
            )
        )
    return made


@pytest.fixture(scope="module")
def slices() -> Slices:
    return slices_of(records(), TASKS, BUDGETS, MODELS, resamples=20)


def test_a_point_of_a_slice_is_the_best_draw_by_the_tune_split(slices: Slices) -> None:
    assert len(slices.slices) == len(TASKS) * len(LAWS)
    for one in slices.slices:
        assert [point.nominal for point in one.points] == SIZES
        assert all(point.draw == 0 and point.settings == 2 for point in one.points)
        assert one.best == min(range(5), key=lambda i: one.points[i].tuned)
        best = LAWS[one.arm].best_size(one.flops)
        if SIZES[1] < best < SIZES[-2]:
            assert one.edge is None and one.optimum == pytest.approx(best, rel=0.1)
    inner = [one for one in slices.slices if SIZES[1] < LAWS[one.arm].best_size(one.flops) < SIZES[-2]]
    assert len(inner) >= 4 and any(one.edge == "largest" for one in slices.slices)


def test_laws_ratios_and_the_missing_crossover_are_recovered(slices: Slices) -> None:
    assert [fit.tied for fit in slices.fits] == [True, False] and not slices.unfitted
    for fit in slices.fits:
        for arm, law in LAWS.items():
            assert fit.laws[arm].alpha == pytest.approx(law.alpha, rel=1e-3)
            assert pytest.approx(law.E, rel=1e-3) == fit.laws[arm].E
        for reach in fit.reaches:
            assert reach.loss.estimate == pytest.approx(LAWS[reach.arm].best_loss(reach.flops), rel=1e-4)
            if reach.arm == "fast":
                needed = LAWS["slow"].flops_for(LAWS["fast"].best_loss(reach.flops))
                assert reach.ratio is not None and reach.ratio.estimate == pytest.approx(
                    needed / reach.flops, rel=1e-2
                )
        assert fit.crossovers["fast − slow"].flops is None


def test_kept_settings_have_no_tuning_curve() -> None:
    kept = slices_of(records(), TASKS, BUDGETS, MODELS, drawn={TASKS[0].name}, resamples=2)
    assert [one.tuning is not None for one in kept.slices] == [
        one.task == TASKS[0].name for one in kept.slices
    ]
    assert all(one.sensitivity == pytest.approx(0.025) for one in kept.slices)


def test_a_grid_of_rates_has_a_sensitivity_and_no_tuning_curve() -> None:
    ladder = slices_of([replace(r, draw=None) for r in records()], TASKS, BUDGETS, MODELS, resamples=2)
    assert all(one.tuning is None and one.sensitivity is not None for one in ladder.slices)


def test_too_few_budgets_give_slices_and_say_why_there_is_no_law() -> None:
    few = [r for r in records() if r.task in (TASKS[0].name, TASKS[1].name)]
    made = slices_of(few, TASKS[:2], BUDGETS[:2], MODELS, resamples=2)
    assert len(made.slices) == 4 and made.fits  # five sizes at two budgets have ten numbers of tokens
    one = [r for r in records() if r.task == TASKS[0].name and r.size in SIZES[:2]]
    made = slices_of(one, TASKS[:1], BUDGETS[:1], MODELS, resamples=2)
    assert not made.fits and "a law needs five or more" in made.unfitted


def test_a_diverged_size_is_left_out_and_the_others_stay() -> None:
    every = [replace(r, status="diverged", scores={}) if r.size == 64_000 else r for r in records()]
    made = slices_of(every, TASKS, BUDGETS, MODELS, resamples=2)
    assert all([p.nominal for p in one.points] == [16_000, 32_000, 128_000, 256_000] for one in made.slices)


def make_forecast(held_out: float) -> Forecast:
    made = slices_of(records(seeds=2, noise=0.002), TASKS, BUDGETS, MODELS, resamples=40)
    fitted = frontiers(records(seeds=2, noise=0.002), made.slices, MODELS, BITS, resamples=40)
    losses, differences = expected(fitted, [held_out])
    return Forecast(
        source="study",
        identity="0",
        measure="bits",
        created="2026-01-01",
        trained_to=BUDGETS[-1],
        expected=losses,
        differences=differences,
    )


def test_a_forecast_is_met_by_the_law_it_came_from_and_not_by_another() -> None:
    flops = 3e13
    forecast = make_forecast(flops)
    assert Forecast.from_json(forecast.to_json()) == forecast
    truth = {(arm, flops): law.best_loss(flops) for arm, law in LAWS.items()}
    result = outcomes(forecast, "sum", truth, {("fast", "slow", flops): "fast"})
    assert len(result.arms) == 4 and all(abs(one.error) < 0.015 for one in result.arms)
    assert {sign.expected for sign in result.signs} == {"fast"} == {sign.measured for sign in result.signs}
    off = outcomes(forecast, "sum", {key: 1.05 * loss for key, loss in truth.items()}, {})
    assert not any(one.is_met for one in off.arms) and all(one.error > 0.03 for one in off.arms)
    elsewhere = outcomes(forecast, "sum", {("fast", 2e13): 1.0}, {})
    assert not elsewhere.arms


def test_records_without_a_law_refuse_a_forecast() -> None:
    one = [r for r in records() if r.task == TASKS[0].name and r.size in SIZES[:2]]
    made = slices_of(one, TASKS[:1], BUDGETS[:1], MODELS, resamples=2)
    with pytest.raises(ConfigError, match="too few points"):
        frontiers(one, made.slices, MODELS, BITS)
