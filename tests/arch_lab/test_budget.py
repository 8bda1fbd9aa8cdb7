"""Budgets: solved shapes are counted shapes, and what misses is refused with the part to blame."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from arch_lab.accounting import ledger
from arch_lab.accounting.ledger import Component
from arch_lab.budget import Budget, BudgetError, ShapeRule, check, refuse, solve, solve_each
from arch_lab.models import Shape, recipe
from arch_lab.study.plan import PlannedArm
from blocks.errors import ConfigError

SMALL: dict[str, int] = {"vocabulary": 1024, "max_tokens": 256, "batch": 4}


@pytest.mark.parametrize("name", ["gemma1", "gemma2", "gemma3", "m2_gpt"])
@pytest.mark.parametrize("params", [300_000, 2_000_000, 150_000_000])
def test_a_solved_shape_has_the_parameters_it_was_solved_for(name: str, params: int) -> None:
    budget = Budget(params=params, tokens=1)
    found = solve(recipe(name), budget, vocabulary=512, max_tokens=128)
    counts = recipe(name).config(found.shape, vocabulary=512, max_tokens=128).build("meta").parameter_counts()
    assert counts == found.parameters
    assert abs(counts["body"] + counts["head"] - params) <= budget.tolerance * params


@pytest.mark.parametrize("match_on", ["body+head", "body", "total"])
def test_the_matched_count_is_the_one_asked_for(match_on: Any) -> None:
    budget = Budget(params=1_000_000, tokens=1, match_on=match_on)
    found = solve(recipe("gemma3"), budget, vocabulary=1024, max_tokens=128)
    matched = found.parameters["total"] if match_on == "total" else found.parameters["body"]
    assert abs(matched - 1_000_000) <= 10_000


@pytest.mark.parametrize("budget", [{"params": 100_000}, {"params": 1_000_000}, {"flops_per_token": 8e6}])
def test_the_shape_of_an_arm_does_not_depend_on_its_company(budget: dict[str, float]) -> None:
    arms = [
        recipe("gemma3", {"pattern": "LLLG"}),
        recipe("m2_gpt"),
        recipe("gemma3", {"short_convolution": 3, "pattern": "LLLG"}),
        recipe("hybrid"),
        recipe("gemma2"),
    ]
    limits = Budget(**budget, tokens=1)  # type: ignore[arg-type]
    alone = [solve(arm, limits, **SMALL).shape for arm in arms]
    assert [c.shape for c in solve_each(arms, limits, **SMALL)] == alone
    for i in range(1, len(arms)):
        assert [c.shape for c in solve_each([arms[i], arms[0]], limits, **SMALL)] == [alone[i], alone[0]]


def test_any_two_arms_of_a_budget_are_within_its_tolerance_of_each_other() -> None:
    budget = Budget(params=1_000_000, tokens=1)
    arms = [recipe(name) for name in ("gemma1", "gemma2", "gemma3", "m2_gpt", "hybrid")]
    sizes = [c.parameters["body"] for c in solve_each(arms, budget, **SMALL)]
    assert max(sizes) / min(sizes) - 1 <= budget.tolerance


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("gemma3", {"pattern": "LLLG"}, 4),
        ("gemma3", {"pattern": "G"}, 1),
        ("gemma3", {"pattern": "GL"}, 2),
        ("gemma3", {}, 6),
        ("gemma_encoder", {"generation": 3, "generation_options": {"pattern": "LLLG"}}, 4),
        ("hybrid", {"pattern": "MMA"}, 3),
        ("m2_gpt", {}, 1),
    ],
)
def test_a_solved_depth_holds_every_kind_of_layer(name: str, options: dict[str, Any], least: int) -> None:
    arm = recipe(name, options)
    assert arm.least_depth == least
    for params in (100_000, 400_000):
        assert solve(arm, Budget(params=params, tokens=1), **SMALL).shape.depth >= least


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.8])
def test_a_hybrid_of_its_least_depth_has_both_mixers_and_a_shallower_one_not(share: float) -> None:
    arm = recipe("hybrid", {"attention_share": share})
    assert set(arm.kinds(arm.least_depth)) == {"M", "A"}  # type: ignore[attr-defined]
    assert len(set(arm.kinds(arm.least_depth - 1))) < 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("aspect", [8.0, 32.0, 128.0])
def test_the_rule_of_shapes_decides_width_over_depth_of_every_arm(aspect: float) -> None:
    budget = Budget(params=1_000_000, tokens=1, shapes=ShapeRule(aspect=aspect))
    for name in ("gemma1", "m2_gpt"):
        shape = solve(recipe(name), budget, **SMALL).shape
        assert abs(math.log2(shape.width / shape.depth / aspect)) < 1, (name, shape)


def test_an_impossible_budget_names_the_nearest_reachable_count() -> None:
    with pytest.raises(BudgetError, match=r"nearest reachable is [\d,]+ .*width") as caught:
        solve(recipe("gemma3"), Budget(params=100, tokens=1), vocabulary=512, max_tokens=64)
    assert "\n" not in str(caught.value)


SETS = [
    ({"params": 10**6, "train_flops": 1e12}, ("params", "train_flops")),
    ({"params": 10**6, "tokens": 10**5}, ("params", "tokens")),
    ({"params": 10**6, "seconds": 60.0}, ("params", "seconds")),
    ({"flops_per_token": 8e6, "train_flops": 1e12}, ("flops_per_token", "train_flops")),
    ({"flops_per_token": 8e6, "tokens": 10**5}, ("flops_per_token", "tokens")),
    ({"flops_per_token": 8e6, "seconds": 60.0}, ("flops_per_token", "seconds")),
    (
        {"params": 10**6, "flops_per_token": 8e6, "train_flops": 1e12},
        ("params", "flops_per_token", "train_flops"),
    ),
    ({"params": 10**6, "flops_per_token": 8e6, "tokens": 10**5}, ("params", "flops_per_token", "tokens")),
    ({"params": 10**6, "train_flops": 8e11, "tokens": 10**5}, ("params", "train_flops", "tokens")),
    ({"train_flops": 8e11, "tokens": 10**5}, ("train_flops", "tokens")),
    (
        {"flops_per_token": 8e6, "train_flops": 8e11, "tokens": 10**5},
        ("flops_per_token", "train_flops", "tokens"),
    ),
]


@pytest.mark.parametrize(("options", "axes"), SETS)
def test_every_consistent_set_of_axes_is_a_budget(options: dict[str, Any], axes: tuple[str, ...]) -> None:
    assert Budget.from_options(options).axes == axes


def test_flops_and_tokens_together_say_what_a_token_costs() -> None:
    assert Budget(train_flops=8e11, tokens=10**5).size_targets == {"flops_per_token": 8e6}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": 0, "tokens": 1}, "Budget.params: must be at least 1, got 0"),
        ({"params": 10, "seconds": -1.0}, "Budget.seconds: must be positive, got -1.0"),
        ({"params": 10}, "the training length is missing.*train_flops, tokens, seconds"),
        ({"tokens": 10}, "the model size is missing.*params or flops_per_token"),
        ({"train_flops": 1e9}, "the model size is missing"),
        (
            {"params": 10, "tokens": 1, "seconds": 1.0},
            "seconds cannot be combined with tokens.*budget.tokens=null",
        ),
        ({"params": 10, "train_flops": 1.0, "seconds": 1.0}, "seconds cannot be combined with train_flops"),
        (
            {"flops_per_token": 2.0, "tokens": 10, "train_flops": 30.0},
            r"contradicts train_flops 30 \(-33.3%\)",
        ),
        ({"params": 10, "tokens": 1, "tolerance": 0.5}, "tolerance"),
        ({"params": 10, "tokens": 1, "match_on": "boddy"}, "did you mean 'body'"),
        ({"parameters": 10}, "did you mean 'params'"),
    ],
)
def test_a_budget_that_says_nothing_sensible_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Budget.from_options(options)
    assert "\n" not in str(caught.value)


def _flops_per_token(name: str, shape: Shape, vocabulary: int, tokens: int, batch: int) -> float:
    return float(
        ledger(
            recipe(name).config(shape, vocabulary=vocabulary, max_tokens=tokens), tokens=tokens, batch=batch
        ).training
    )


@pytest.mark.parametrize("name", ["gemma1", "gemma2", "gemma3", "m2_gpt"])
def test_a_shape_solved_for_flops_per_token_spends_them(name: str) -> None:
    found = solve(
        recipe(name), Budget(flops_per_token=8e6, tokens=1), vocabulary=1024, max_tokens=256, batch=4
    )
    assert _flops_per_token(name, found.shape, 1024, 256, 4) == pytest.approx(8e6, rel=0.01)


def test_a_shape_can_meet_parameters_and_flops_per_token_at_once() -> None:
    budget = Budget(params=10**6, flops_per_token=8e6, tokens=1)
    for name, found in zip(
        ("gemma3", "m2_gpt"),
        solve_each([recipe("gemma3"), recipe("m2_gpt")], budget, **SMALL),
        strict=True,
    ):
        assert found.parameters["body"] == pytest.approx(10**6, rel=0.01)
        assert _flops_per_token(name, found.shape, 1024, 256, 4) == pytest.approx(8e6, rel=0.01)


def _refusal(budget: Budget, names: tuple[str, ...] = ("gemma3", "m2_gpt"), **at: int) -> str:
    with pytest.raises(BudgetError) as caught:
        solve_each([recipe(n) for n in names], budget, **{**SMALL, **at})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_axes_that_exclude_each_other_are_named_with_the_distance() -> None:
    text = _refusal(Budget(params=10**6, flops_per_token=1e7, tokens=1))
    assert re.search(
        r"'m2_gpt' cannot meet params and flops_per_token together.*the nearest -\d+\.\d% off flops_per_token 1e\+07",
        text,
    )


def test_a_dial_that_is_named_really_reconciles_the_axes() -> None:
    """The vocabulary and the budget that the refusal proposes are tried: every arm is then solved on both axes."""
    budget = Budget(params=10**6, flops_per_token=1e7, tokens=1)
    text = _refusal(budget, ("gemma1", "m2_gpt"))
    vocabulary = re.search(r"vocabulary 1024 -> (\d+)", text)
    proposed = re.search(r"budget.flops_per_token ([\d.e+]+), which every arm reaches", text)
    assert vocabulary and proposed
    arms = [recipe("gemma1"), recipe("m2_gpt")]
    assert solve_each(arms, budget, **{**SMALL, "vocabulary": int(vocabulary[1])})
    assert solve_each(arms, replace(budget, flops_per_token=float(proposed[1])), **SMALL)


def test_the_hidden_width_a_refusal_names_costs_the_parameters_it_says() -> None:
    text = _refusal(Budget(params=10**6, flops_per_token=1e7, tokens=1))
    found = re.search(
        r"at width (\d+), depth (\d+), ffn_width (\d+),.*ffn_width \3 -> (\d+) there \(params then ([+-][\d.]+)%\)",
        text,
    )
    assert found
    shape = Shape(width=int(found[1]), depth=int(found[2]), ffn_width=int(found[4]))
    assert _flops_per_token("m2_gpt", shape, 1024, 256, 4) == pytest.approx(1e7, rel=0.01)
    body = (
        recipe("m2_gpt")
        .config(shape, vocabulary=1024, max_tokens=256)
        .build("meta")
        .parameter_counts()["body"]
    )
    assert body / 10**6 - 1 == pytest.approx(float(found[5]) / 100, abs=0.001)


def test_position_tables_that_outgrow_a_budget_are_named_with_a_length_that_fits() -> None:
    """Trained filter positions are 17 numbers a token in every layer: 557,056 at 32768 tokens, more than 300,000."""
    arm, budget = recipe("m2_gpt", {"train_positions": True}), Budget(params=300_000, tokens=1)
    with pytest.raises(BudgetError) as caught:
        solve(arm, budget, vocabulary=257, max_tokens=32768)
    text = str(caught.value)
    assert "layers.*.mixer.long.filter.positions is 557,056 parameters" in text
    shorter = re.search(r"sequence_length 32768 -> (\d+)", text)
    assert shorter and solve(arm, budget, vocabulary=257, max_tokens=int(shorter[1]))


def test_a_table_that_outgrows_a_total_budget_is_named_with_a_vocabulary_that_fits() -> None:
    budget = Budget(params=10**6, tokens=1, match_on="total")
    text = _refusal(budget, ("gemma3",), vocabulary=262144)
    assert "embedding.weight is 8,388,608 parameters" in text
    fewer = re.search(r"vocabulary 262144 -> (\d+)", text)
    assert fewer and solve(recipe("gemma3"), budget, vocabulary=int(fewer[1]), max_tokens=256)


@pytest.mark.parametrize(
    ("name", "options"), [("m2_bert", {}), ("gemma_encoder", {}), ("custom_encoder", {"mixer": "m2_mixer"})]
)
def test_an_encoder_is_sized_by_its_built_model(name: str, options: dict[str, Any]) -> None:
    chosen = recipe(name, options)
    found = solve(chosen, Budget(params=2 * 10**5, tokens=1), vocabulary=512, max_tokens=64)
    built = chosen.model(found.shape, vocabulary=512, max_tokens=64)
    assert found.parameters == built.parameter_counts()
    assert found.parameters["body"] + found.parameters["head"] == pytest.approx(2 * 10**5, rel=0.01)
    book = ledger(chosen.config(found.shape, vocabulary=512, max_tokens=64), tokens=64, batch=1, model=built)
    assert found.flops_per_token == float(book.training)


def test_an_encoder_decoder_is_refused_as_what_it_is() -> None:
    with pytest.raises(ConfigError, match="'t5gemma' is an encoder–decoder"):
        solve(recipe("t5gemma"), Budget(params=10**6, tokens=1), vocabulary=512, max_tokens=64)


def _arm(name: str, params: float, flops: float) -> PlannedArm:
    parts = (("embedding+head", 50, 10.0), ("layers.*.mixer", 30, 20.0), ("layers.*.channel", 70, 70.0))
    components = tuple(
        Component(
            name=part, parameters=count, flops_per_token=cost, count=1, matmul=cost, fft=0.0, elementwise=0.0
        )
        for part, count, cost in parts
    )
    deviation = {"params": params, "train_flops": flops}
    return PlannedArm(name=name, deviation=deviation, components=components)


def test_the_gate_lets_matched_arms_pass() -> None:
    refuse([_arm("a", 0.004, -0.001), _arm("b", -0.003, 0.002)], Budget(params=1, tokens=1))


def test_the_gate_names_the_arm_the_axis_and_the_largest_component() -> None:
    with pytest.raises(BudgetError, match=r"'b'.*train_flops.*layers\.\*\.channel"):
        refuse([_arm("a", 0.0, 0.0), _arm("b", 0.0, 0.03)], Budget(params=1, tokens=1))


def test_two_arms_at_opposite_edges_of_the_band_are_not_matched_with_each_other() -> None:
    misses = check([_arm("a", 0.009, 0.0), _arm("b", -0.009, 0.0)], Budget(params=1, tokens=1))
    assert [m.axis for m in misses] == ["params"]
    assert "arm 'a'" in misses[0].text
