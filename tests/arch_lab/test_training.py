"""Optimizer groups, schedule and metrics: declared sums, known values, independence of batch size."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.text import Perplexity

from arch_lab.metrics.tokens import language_metrics
from arch_lab.models import Shape, recipe
from arch_lab.training.optimizer import (
    FINE_TUNING,
    GroupRule,
    OptimizerConfig,
    build_optimizer,
    groups,
    optimizer_and_schedule,
    rate_schedule,
)
from blocks.errors import ConfigError
from blocks.groups import FILTERS, ParameterGroup


@pytest.mark.parametrize("architecture", ["gemma3", "m2_gpt"])
def test_every_parameter_is_in_one_group_and_no_vector_or_table_decays(architecture: str) -> None:
    model = recipe(architecture).model(Shape(width=32, depth=2, ffn_width=64), vocabulary=61, max_tokens=32)
    declared = groups(model, weight_decay=0.1)
    assert sum(g.parameters for g in declared) == sum(p.numel() for p in model.parameters())
    decayed = {name for g in declared if g.treatment.weight_decay for name in g.names}
    for name, parameter in model.named_parameters():
        spared = parameter.squeeze().ndim < 2 or "embedding" in name or ".filter." in name
        assert (name in decayed) != spared, name


def test_the_group_of_a_block_reaches_the_optimizer_of_the_whole_model() -> None:
    optimizer = build_optimizer(small_m2("balanced"), OptimizerConfig(), learning_rate=1e-2)
    slow = {g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}["filters"]
    assert slow == (pytest.approx(2e-4), 0.0)


@pytest.mark.parametrize("architecture", ["gemma3", "m2_gpt", "gemma_encoder"])
def test_a_table_that_is_the_head_trains_faster_than_matrices_unless_it_is_fine_tuned(
    architecture: str,
) -> None:
    model = recipe(architecture).model(Shape(width=32, depth=2, ffn_width=64), vocabulary=61, max_tokens=32)
    for rules, rate in (((), 3.0), (FINE_TUNING, 1.0)):
        rates = {g.treatment.name: g.treatment.rate for g in groups(model, weight_decay=0.1, rules=rules)}
        assert (rates["embedding"], rates["matrices"]) == (rate, 1.0)


@pytest.mark.parametrize(
    ("rule", "rate", "decay"),
    [
        (GroupRule(name="filters", rate=0.5), 0.5, 0.0),
        (GroupRule(name="filters", weight_decay=0.3), 0.02, 0.3),
        (GroupRule(name="filters"), 0.02, 0.0),
    ],
)
def test_a_rule_without_patterns_overrides_a_declared_group(
    rule: GroupRule, rate: float, decay: float
) -> None:
    declared = {g.treatment.name: g for g in groups(small_m2("balanced"), weight_decay=0.1)}
    overridden = {g.treatment.name: g for g in groups(small_m2("balanced"), weight_decay=0.1, rules=[rule])}
    treatment = overridden["filters"].treatment
    assert (treatment.rate, treatment.weight_decay, treatment.declared) == (rate, decay, False)
    assert overridden["filters"].names == declared["filters"].names
    assert overridden["matrices"] == declared["matrices"]


def test_patterns_come_before_the_group_that_a_block_declares() -> None:
    rules = [GroupRule(name="filters", rate=0.5), GroupRule(name="waves", match=("*.frequency",))]
    by_name = {g.treatment.name: g for g in groups(small_m2("balanced"), weight_decay=0.1, rules=rules)}
    assert by_name["waves"].names == tuple(f"layers.{i}.mixer.long.filter.frequency" for i in range(2))
    assert (by_name["waves"].treatment.rate, by_name["filters"].treatment.rate) == (1.0, 0.5)


class Misspelt(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)

    def parameter_groups(self) -> dict[str, ParameterGroup]:
        return {"iner": FILTERS}


def test_a_declaration_of_what_the_block_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Misspelt\.parameter_groups names 'iner', which it does not have"):
        groups(torch.nn.Sequential(Misspelt()), weight_decay=0.1)


def test_groups_reach_the_optimizer() -> None:
    model = recipe("m2_gpt").model(Shape(width=32, depth=1, ffn_width=64), vocabulary=61, max_tokens=32)
    optimizer = build_optimizer(model, OptimizerConfig(), learning_rate=1e-3)
    sizes = {
        g["name"]: (g["weight_decay"], sum(p.numel() for p in g["params"])) for g in optimizer.param_groups
    }
    declared = groups(model, weight_decay=0.1)
    assert sizes == {g.treatment.name: (g.treatment.weight_decay, g.parameters) for g in declared}


def small_m2(start: str = "released") -> torch.nn.Module:
    return recipe("m2_gpt", {"filter_order": 8, "start": start}).model(
        Shape(width=32, depth=2, ffn_width=64), vocabulary=61, max_tokens=24
    )


RULES = (
    GroupRule(name="positions", match=("*.filter.positions",), rate=0.01, weight_decay=0.0),
    GroupRule(name="filters", match=("*.filter.*",), rate=0.5),
)


def test_filters_and_their_positions_train_at_rates_of_their_own() -> None:
    """The released code tags just these and loses the tags; here sizes and rates are those of the built optimizer."""
    optimizer = build_optimizer(small_m2(), OptimizerConfig(), learning_rate=1e-2, rules=RULES)
    found = {
        (g["name"], g["weight_decay"]): (sum(p.numel() for p in g["params"]), g["lr"])
        for g in optimizer.param_groups
    }
    emb, order, layers, width, tokens = 17, 8, 2, 32, 24
    maps = emb * order + 2 * order * order + order * width  # without biases, and the frequency is a vector
    assert found["positions", 0.0] == (layers * tokens * emb, pytest.approx(1e-4))
    assert found["filters", 0.1] == (layers * maps, pytest.approx(5e-3))
    assert found["filters", 0.0] == (layers * (3 * order + order), pytest.approx(5e-3))
    assert found["matrices", 0.1][1] == found["gains", 0.0][1] == 1e-2
    assert sum(size for size, _ in found.values()) == sum(p.numel() for p in small_m2().parameters())


def test_a_small_rate_moves_its_parameters_less() -> None:
    torch.manual_seed(0)
    model = small_m2()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.0), learning_rate=1e-2, rules=RULES)
    model(torch.randint(61, (2, 24))).square().mean().backward()
    optimizer.step()
    moved = {name: (p - before[name]).abs().max().item() for name, p in model.named_parameters()}
    # Adam's first step is the rate itself wherever there is a gradient
    assert moved["layers.0.mixer.long.filter.positions"] == pytest.approx(1e-4, rel=0.01)
    assert moved["layers.0.mixer.long.filter.ahead.0.weight"] == pytest.approx(5e-3, rel=0.01)
    assert moved["layers.0.mixer.in_linear.weight"] == pytest.approx(1e-2, rel=0.01)


def test_no_two_layers_start_from_the_same_draw() -> None:
    drawn = [p for p in small_m2().parameters() if p.detach().flatten().unique().numel() > 2]
    fixed = [p for name, p in small_m2().named_parameters() if "positions" in name]
    pairs = [
        (a, b)
        for i, a in enumerate(drawn)
        for b in drawn[i + 1 :]
        if a.shape == b.shape and torch.equal(a, b)
    ]
    assert len(fixed) == 2 and all(
        a.shape == fixed[0].shape for a, _ in pairs
    )  # only the positions have a fixed start
    assert len(pairs) == 1


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"weight_decay": -1.0}, {"name": ""}])
def test_impossible_groups_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"GroupRule\.(rate|weight_decay|name): must"):
        GroupRule(**{"name": "filters", "match": ("*",), **wrong})


def test_the_schedule_warms_up_to_one_and_ends_at_its_final_fraction() -> None:
    factor = rate_schedule(OptimizerConfig(warmup_fraction=0.1, final_fraction=0.2), 100)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == factor(10) == pytest.approx(1.0)
    assert factor(100) == pytest.approx(0.2)
    assert all(factor(s) >= factor(s + 1) for s in range(10, 100))


WSD = OptimizerConfig(schedule="wsd", decay_fraction=0.2, final_fraction=0.1)


def test_wsd_is_constant_until_its_decay_whatever_the_length_of_the_run() -> None:
    short, long = (rate_schedule(WSD, steps, warmup_steps=5) for steps in (50, 100))
    assert [short(s) for s in range(40)] == [long(s) for s in range(40)]
    assert short(5) == short(40) == 1 and short(45) == pytest.approx(0.55) and short(50) == pytest.approx(0.1)
    assert long(80) == 1 and long(90) == pytest.approx(0.55)


@pytest.mark.parametrize("architecture", ["gemma3", "m2_gpt"])
def test_a_decay_branched_off_a_longer_wsd_run_equals_the_run_of_its_length(architecture: str) -> None:
    """Bit for bit: weights, momenta and rates of step 8 of 20 go on to a run of 10."""
    tokens = torch.randint(61, (20, 2, 17), generator=torch.Generator().manual_seed(0))

    def start(steps: int) -> tuple[torch.nn.Module, Any]:
        torch.manual_seed(0)
        model = recipe(architecture).model(
            Shape(width=32, depth=2, ffn_width=64), vocabulary=61, max_tokens=16
        )
        return model, optimizer_and_schedule(model, WSD, learning_rate=0.01, steps=steps, warmup_steps=3)

    def train(model: torch.nn.Module, built: Any, steps: range) -> None:
        for step in steps:
            logits = model(tokens[step, :, :-1])
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[step, :, 1:].flatten()).backward()
            built["optimizer"].step()
            built["lr_scheduler"]["scheduler"].step()
            built["optimizer"].zero_grad()

    planned, own = start(10)
    train(planned, own, range(10))
    trunk, long = start(20)
    train(trunk, long, range(8))
    branch, short = start(10)
    branch.load_state_dict(trunk.state_dict())
    short["optimizer"].load_state_dict(deepcopy(long["optimizer"].state_dict()))
    short["lr_scheduler"]["scheduler"].load_state_dict(long["lr_scheduler"]["scheduler"].state_dict())
    train(branch, short, range(8, 10))
    for a, b in zip(planned.parameters(), branch.parameters(), strict=True):
        assert torch.equal(a, b)


@settings(deadline=None, max_examples=25)
@given(tokens=st.integers(2, 40), cut=st.integers(1, 39), seed=st.integers(0, 10**6))
def test_metrics_do_not_depend_on_how_tokens_are_batched(tokens: int, cut: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    widths = torch.tensor([0, 1, 2, 3, 5])
    nats = torch.rand(tokens, generator=generator)
    targets = torch.randint(5, (tokens,), generator=generator)
    valid = torch.rand(tokens, generator=generator) > 0.2
    valid[0], targets[0] = True, 3
    whole, parts = (language_metrics(widths, words=10, text_bytes=70) for _ in range(2))
    whole.update(nats, targets, valid)
    for piece in (slice(0, cut), slice(cut, None)):
        parts.update(nats[piece], targets[piece], valid[piece])
    scored = valid & (targets > 0)
    total, size = nats[scored].double().sum(), widths[targets[scored]].sum()
    expected = {
        "bits_per_byte": total / math.log(2) / size,
        "perplexity": (total / scored.sum()).exp(),
        "word_perplexity": (total / (size * 10 / 70)).exp(),
    }
    for name, value in parts.compute().items():
        torch.testing.assert_close(value, expected[name].double(), rtol=1e-6, atol=0)
        torch.testing.assert_close(value, whole.compute()[name], rtol=1e-12, atol=0)


def test_perplexity_equals_torchmetrics_on_the_same_logits() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 7, 11), torch.randint(11, (3, 7))
    theirs = Perplexity()
    theirs.update(logits, targets)
    ours = language_metrics(torch.ones(11), words=1, text_bytes=1)
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(
        3, 7
    )
    ours.update(nats, targets, torch.ones(3, 7, dtype=torch.bool))
    torch.testing.assert_close(ours.compute()["perplexity"].float(), theirs.compute(), rtol=1e-5, atol=0)
