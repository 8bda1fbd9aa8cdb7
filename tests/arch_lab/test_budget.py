"""Budgets: solved shapes are counted shapes, and what misses is refused with the part to blame."""

from __future__ import annotations

from typing import Any

import pytest

from arch_lab.architecture import meta_model, recipe
from arch_lab.budget import Budget, BudgetError, check, refuse, solve, solve_together
from blocks.errors import ConfigError


@pytest.mark.parametrize("name", ["gemma1", "gemma2", "gemma3", "m2_gpt"])
@pytest.mark.parametrize("params", [300_000, 2_000_000, 150_000_000])
def test_a_solved_shape_has_the_parameters_it_was_solved_for(name: str, params: int) -> None:
    budget = Budget(params=params, tokens=1)
    found = solve(recipe(name), budget, vocabulary=512, max_tokens=128)
    counts = meta_model(recipe(name).decoder(found.shape, vocabulary=512, max_tokens=128)).parameter_counts()
    assert counts == found.parameters
    assert abs(counts["body"] + counts["head"] - params) <= budget.tolerance * params


@pytest.mark.parametrize("match_on", ["body+head", "body", "total"])
def test_the_matched_count_is_the_one_asked_for(match_on: Any) -> None:
    budget = Budget(params=1_000_000, tokens=1, match_on=match_on)
    found = solve(recipe("gemma3"), budget, vocabulary=1024, max_tokens=128)
    matched = found.parameters["total"] if match_on == "total" else found.parameters["body"]
    assert abs(matched - 1_000_000) <= 10_000


def test_arms_solved_together_share_their_width_and_so_their_table() -> None:
    budget = Budget(params=1_000_000, tokens=1)
    shapes = solve_together([recipe("gemma3"), recipe("m2_gpt")], budget, vocabulary=1024, max_tokens=256)
    assert shapes[0].shape.width == shapes[1].shape.width
    totals = [c.parameters["total"] for c in shapes]
    assert abs(totals[0] / totals[1] - 1) <= 0.01


def test_an_impossible_budget_names_the_nearest_reachable_count() -> None:
    with pytest.raises(BudgetError, match=r"nearest reachable is [\d,]+ .*width") as caught:
        solve(recipe("gemma3"), Budget(params=100, tokens=1), vocabulary=512, max_tokens=64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": 0, "tokens": 1}, "positive"),
        ({"params": 10}, "exactly one"),
        ({"params": 10, "tokens": 1, "train_flops": 1.0}, "exactly one"),
        ({"params": 10, "tokens": 1, "tolerance": 0.5}, "tolerance"),
        ({"params": 10, "tokens": 1, "match_on": "boddy"}, "did you mean 'body'"),
        ({"parameters": 10}, "did you mean 'params'"),
    ],
)
def test_a_budget_that_says_nothing_sensible_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Budget.from_options(options)


def _arm(name: str, params: float, flops: float) -> dict[str, Any]:
    components = [
        {"name": "embedding+head", "parameters": 50, "flops_per_token": 10.0},
        {"name": "layers.*.mixer", "parameters": 30, "flops_per_token": 20.0},
        {"name": "layers.*.channel", "parameters": 70, "flops_per_token": 70.0},
    ]
    return {"name": name, "deviation": {"params": params, "train_flops": flops}, "components": components}


def test_the_gate_lets_matched_arms_pass() -> None:
    refuse([_arm("a", 0.004, -0.001), _arm("b", -0.003, 0.002)], Budget(params=1, tokens=1))


def test_the_gate_names_the_arm_the_axis_and_the_largest_component() -> None:
    with pytest.raises(BudgetError, match=r"'b'.*train_flops.*layers\.\*\.channel"):
        refuse([_arm("a", 0.0, 0.0), _arm("b", 0.0, 0.03)], Budget(params=1, tokens=1))


def test_two_arms_at_opposite_edges_of_the_band_are_not_matched_with_each_other() -> None:
    misses = check([_arm("a", 0.009, 0.0), _arm("b", -0.009, 0.0)], Budget(params=1, tokens=1))
    assert [m.axis for m in misses] == ["params"]
    assert "arm 'a'" in misses[0].text
