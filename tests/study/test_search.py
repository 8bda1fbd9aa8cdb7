"""Search over hyper-parameters: which draws there are, and what they are worth at a size."""

from __future__ import annotations

from typing import Any

import pytest

from arch_lab.study.config import Training
from arch_lab.study.search import Search, with_values
from blocks.errors import ConfigError

RATE = {"learning_rate": {"center": 0.02, "span": 16, "size_exponent": -0.5}}
DECAY = {"weight_decay": {"center": 0.1, "span": 100}}
BETA = {"beta2": {"scale": "linear", "center": 0.95, "span": 0.08}}


def search(**options: Any) -> Search:
    return Search.from_options({"space": RATE, **options}, where="search")


def test_a_grid_over_rates_alone_is_a_ladder_around_the_centre() -> None:
    assert (
        search().is_ladder and search().learning_rates == [0.005, 0.02, 0.08] and search().grid().draws == ()
    )


def test_a_grid_over_several_is_every_combination() -> None:
    draws = search(space={**RATE, **DECAY}).grid().draws
    assert len({tuple(draw.values.values()) for draw in draws}) == 9
    assert draws[0].values == {"learning_rate": 0.005, "weight_decay": 0.01}


def test_more_draws_keep_those_before_and_every_draw_lies_in_its_range() -> None:
    space = {**RATE, **DECAY, **BETA}
    few, many = (search(method="sobol", draws=n, space=space).grid().draws for n in (5, 23))
    assert many[:5] == few and len(many) == 23
    for draw in many:
        assert 0.005 <= draw.values["learning_rate"] <= 0.08
        assert 0.01 <= draw.values["weight_decay"] <= 1 and 0.91 <= draw.values["beta2"] <= 0.99


def test_a_sobol_sequence_spreads_over_each_dimension() -> None:
    draws = search(method="sobol", draws=16, space={**RATE, **DECAY}).grid().draws
    rates = sorted(draw.values["learning_rate"] for draw in draws)
    quarters = [0.005 * 2**k for k in range(1, 4)]
    counts = [
        sum(low < r <= high for r in rates) for low, high in zip([0, *quarters], [*quarters, 1], strict=True)
    ]
    assert counts == [4, 4, 4, 4]


def test_centres_fall_with_size_by_the_declared_exponent() -> None:
    grid = search(reference_size=1e5).grid()
    assert grid.at("learning_rate", 0.02, 1e5) == 0.02
    assert grid.at("learning_rate", 0.02, 4e5) == 0.01
    assert grid.at("weight_decay", 0.1, 4e5) == 0.1
    assert grid.at("learning_rate", 0.02, None) == 0.02


def test_a_draw_replaces_options_of_training_and_of_groups() -> None:
    values = {"learning_rate": 0.02, "weight_decay": 0.3, "filters.rate": 0.5, "gains.weight_decay": 0.1}
    training = with_values(Training(groups=[]), values)
    assert training.weight_decay == 0.3
    rules = {rule.name: rule for rule in training.groups}
    assert rules["filters"].rate == 0.5 and rules["gains"].weight_decay == 0.1
    again = with_values(training, {"filters.rate": 0.25})
    assert {rule.name: rule.rate for rule in again.groups}["filters"] == 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": {**RATE, "weight_decy": {"center": 1, "span": 2}}}, "did you mean 'weight_decay'"),
        ({"space": DECAY}, "learning_rate is missing"),
        ({"method": "sobol"}, "needs draws"),
        ({"draws": 4}, "takes points, not draws"),
        ({"space": {"learning_rate": {"center": 0, "span": 4}}}, "center above 0"),
        ({"space": {"learning_rate": {"center": 0.1, "span": 0.5}}}, "span of 1 or more"),
    ],
)
def test_a_search_that_says_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        search(**options)
