"""The hybrid decoder: where its attention layers stand, and that the rest is m2_gpt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import arch_lab
from arch_lab.accounting import ledger
from arch_lab.budget import Budget, solve
from arch_lab.generation.decode import Meter, decode
from arch_lab.generation.sampling import Sampling
from arch_lab.laws import certify_model
from arch_lab.models import DecoderConfig, Shape, recipe
from blocks.errors import ConfigError
from tests.small_study import small_study

SHAPE = Shape(width=64, depth=4, ffn_width=96)


def config(name: str, shape: Shape = SHAPE, **options: Any) -> DecoderConfig:
    return recipe(name, options).config(shape, vocabulary=61, max_tokens=48)


def kinds(depth: int, **options: Any) -> str:
    return recipe("hybrid", options).kinds(depth)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    "options", [{}, {"residual_long_conv": True, "blocks": 8}, {"polynomial_order": 2, "start": "released"}]
)
def test_without_attention_it_is_m2_gpt(options: dict[str, Any]) -> None:
    assert (
        config("hybrid", pattern="M", **options)
        == config("hybrid", attention_share=0, **options)
        == config("m2_gpt", **options)
    )


def test_with_attention_alone_only_the_sequence_mixers_change() -> None:
    attention, monarch = config("hybrid", pattern="A"), config("m2_gpt")
    assert attention == config("hybrid", attention_share=1)
    assert (attention.embedding, attention.norm) == (monarch.embedding, monarch.norm)
    for ours, theirs in zip(attention.layers, monarch.layers, strict=True):
        assert (ours.channel, ours.norm, ours.sandwich, ours.scale) == (
            theirs.channel,
            theirs.norm,
            theirs.sandwich,
            theirs.scale,
        )


@pytest.mark.parametrize(("window", "pattern"), [(None, "G"), (7, "L")])
def test_an_attention_layer_is_one_of_gemma_3(window: int | None, pattern: str) -> None:
    gemma = config("gemma3", pattern=pattern, **({"window": window} if window else {}))
    assert config("hybrid", pattern="A", window=window).layers[0].mixer == gemma.layers[0].mixer


def test_a_pattern_is_repeated_over_the_depth() -> None:
    assert kinds(6, pattern="MMMA") == "MMMAMM"


def test_a_quarter_of_attention_layers_is_the_default() -> None:
    assert kinds(9) == kinds(9, attention_share=0.25) == "MAMMMAMMM"


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 0.77, 1.0])
def test_any_first_layers_hold_the_share_to_within_half_a_layer(share: float) -> None:
    for depth in range(1, 40):
        assert abs(kinds(depth, attention_share=share).count("A") - depth * share) <= 0.5 + 1e-9
        assert kinds(40, attention_share=share).startswith(kinds(depth, attention_share=share))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "MA", "attention_share": 0.5}, "already places the attention layers"),
        ({"pattern": "MX"}, "letters M .* and A"),
        ({"pattern": ""}, "letters M .* and A"),
        ({"attention_share": 1.5}, "attention_share must be from 0 to 1, got 1.5"),
        ({"window": 0}, "window must be at least 1"),
        ({"kv_groups": 0}, "kv_groups must be at least 1"),
        ({"polynomial_groups": 2}, "hybrid: polynomial_groups = 2 needs a polynomial_order"),
        ({"patern": "MA"}, "did you mean 'pattern'"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        recipe("hybrid", options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"pattern": "MMMA"}, {"attention_share": 0.5, "window": 16}])
@pytest.mark.parametrize("params", [300_000, 2_000_000])
def test_a_shape_is_found_although_layers_differ_in_parameters(options: dict[str, Any], params: int) -> None:
    found = solve(recipe("hybrid", options), Budget(params=params, tokens=1), vocabulary=512, max_tokens=128)
    counts = (
        recipe("hybrid", options)
        .config(found.shape, vocabulary=512, max_tokens=128)
        .build("meta")
        .parameter_counts()
    )
    assert counts == found.parameters
    assert abs(counts["body"] - params) <= 0.01 * params


def test_a_shape_is_found_for_flops_per_token() -> None:
    found = solve(
        recipe("hybrid"), Budget(flops_per_token=8e6, tokens=1), vocabulary=1024, max_tokens=256, batch=4
    )
    spent = ledger(
        recipe("hybrid").config(found.shape, vocabulary=1024, max_tokens=256), tokens=256, batch=4
    ).training
    assert float(spent) == pytest.approx(8e6, rel=0.01)


def test_widths_keep_heads_and_monarch_blocks_whole() -> None:
    assert recipe("hybrid", {"head_width": 48}).width_multiple == 96


def test_it_is_certified_causal() -> None:
    model = recipe("hybrid", {"pattern": "MA", "window": 7}).model(
        Shape(width=32, depth=2, ffn_width=32), vocabulary=61, max_tokens=24
    )
    assert certify_model(model, vocabulary=61).passed


def test_generation_carries_both_kinds_of_state() -> None:
    torch.manual_seed(0)
    model = (
        recipe("hybrid", {"pattern": "MA", "window": 5})
        .model(SHAPE, vocabulary=61, max_tokens=48)
        .double()
        .eval()
    )
    tokens = [3, 1, 4, 1, 5, 9, 2]
    greedy = decode(
        model, list(tokens), max_tokens=12, sampling=Sampling(), seed=0, end=frozenset(), meter=Meter()
    )
    with torch.no_grad():
        for _ in range(12):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert list(greedy) == tokens[7:]


def test_a_study_plans_it_beside_attention(tmp_path: Path) -> None:
    arms, budget = (
        [{"architecture": "gemma3", "options": {"pattern": "LG"}}, {"architecture": "hybrid"}],
        {"params": 6.0e4, "train_flops": 1.0e11},
    )
    path = small_study(tmp_path, arms=arms, budget=budget)
    assert [arm.architecture for arm in arch_lab.plan(str(path)).arms] == [
        "gemma3",
        "hybrid",
    ]
