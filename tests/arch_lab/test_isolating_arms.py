"""Arms that isolate a cause: a short convolution in attention, channel mixers exchanged, parts of M2 removed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from arch_lab.accounting.proof import prove
from arch_lab.budget import Budget, solve_each
from arch_lab.checkpoints.adaptation import bidirectional
from arch_lab.checkpoints.checkpoint import Blueprint, CheckpointError
from arch_lab.checkpoints.interop import family_for
from arch_lab.checkpoints.interop.m2_bert import refuse_changed_mixers
from arch_lab.laws.probe import redraw
from arch_lab.models import Shape, recipe
from blocks.channel.glu import GeGLUConfig
from blocks.errors import ConfigError
from blocks.monarch.glu import BlockDiagonalGLUConfig

SHAPE, VOCABULARY, TOKENS = Shape(width=64, depth=2, ffn_width=96), 23, 19
ATTENTION: dict[str, dict[str, Any]] = {
    "gemma1": {},
    "gemma2": {"window": 5},
    "gemma3": {"window": 5, "pattern": "LG"},
    "gemma4": {"window": 5},
    "gemma_encoder": {"radius": 3},
    "hybrid": {"pattern": "A"},
}
# channels of queries, keys and values at width 64, head width 32; Gemma 4's second layer has heads twice as wide and
# one projection for keys and values
CONVOLVED = {
    "gemma1": 2 * (64 + 2 * 32),
    "gemma2": 2 * (64 + 2 * 32),
    "gemma3": 2 * (64 + 2 * 32),
    "gemma4": (64 + 2 * 32) + (128 + 64),
    "gemma_encoder": 2 * (64 + 2 * 32),
    "hybrid": 2 * (64 + 2 * 32),
}
M2 = ["m2_gpt", "hybrid", "m2_bert"]
PARTS = ["long_convolution", "short_convolution", "gates"]
CHANNELS = ["gemma1", "gemma2", "gemma3", "gemma4", "gemma_encoder", "m2_gpt", "hybrid"]


def config(name: str, **options: Any) -> Any:
    model_recipe = recipe(name, {**ATTENTION.get(name, {}), **options})
    return model_recipe.config(SHAPE, vocabulary=VOCABULARY, max_tokens=TOKENS)


def cost(built: Any) -> int:
    return sum(part.cost.forward(1) for part in built.components(TOKENS))


@pytest.mark.parametrize("name", ATTENTION)
def test_a_short_convolution_adds_its_taps_and_nothing_else(name: str) -> None:
    plain, convolved = config(name).build("meta"), config(name, short_convolution=3).build("meta")
    added = {n: p.numel() for n, p in convolved.named_parameters()}
    for parameter, values in plain.named_parameters():
        assert added.pop(parameter) == values.numel()
    assert sum(added.values()) == 3 * CONVOLVED[name]
    assert cost(convolved) - cost(plain) == 2 * 3 * TOKENS * CONVOLVED[name]
    assert prove(convolved, TOKENS) >= 3


@pytest.mark.parametrize("name", CHANNELS)
def test_both_sides_exchange_the_very_same_channel_mixers(name: str) -> None:
    block_diagonal = config(name, channel="block_diagonal", blocks=8)
    dense = config(name, channel="dense")
    unit = BlockDiagonalGLUConfig(width=64, ffn_width=96, blocks=8, start="fan_in")
    assert {layer.channel for layer in block_diagonal.layers} == {unit}
    assert {layer.channel for layer in dense.layers} == {GeGLUConfig(width=64, ffn_width=96)}
    mixers = [[layer.mixer for layer in arm.layers] for arm in (block_diagonal, dense, config(name))]
    assert mixers[0] == mixers[1] == mixers[2]
    assert prove(block_diagonal.build("meta"), TOKENS) >= 3


@pytest.mark.parametrize("name", CHANNELS)
def test_the_solver_steps_by_the_channel_mixer_and_not_by_the_side(name: str) -> None:
    assert [recipe(name, {"channel": kind}).ffn_multiple for kind in ("dense", "block_diagonal")] == [8, 16]


def test_widths_of_block_diagonal_attention_are_whole_heads_of_whole_blocks() -> None:
    options = {"channel": "block_diagonal", "blocks": 10, "head_width": 24}
    assert recipe("gemma3", options).width_multiple == 120


def test_an_encoder_keeps_its_short_convolution_causal() -> None:
    torch.manual_seed(0)
    plain = config("gemma_encoder", short_convolution=3).layers[0].mixer
    assert (plain.causal, plain.short_convolution) == (False, 3)
    mixer = plain.build().double()
    z = torch.randn(1, 9, 64, dtype=torch.float64)
    later = z.clone()
    later[:, 5:] += 1
    first, second = (mixer.short(mixer._projections(x)) for x in (z, later))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a[:, :5], b[:, :5]) and not torch.equal(a[:, 5:], b[:, 5:])


@pytest.mark.parametrize("name", M2)
@pytest.mark.parametrize("part", PARTS)
def test_a_removed_part_is_gone_from_every_m2_mixer_and_from_nothing_else(name: str, part: str) -> None:
    options = {"pattern": "MA"} if name == "hybrid" else {}
    whole, ablated = config(name, **options), config(name, ablate=part, **options)
    assert [layer.channel for layer in whole.layers] == [layer.channel for layer in ablated.layers]
    mixers = [layer.mixer for layer in ablated.layers if hasattr(layer.mixer, "ablate")]
    assert mixers and {mixer.ablate for mixer in mixers} == {(part,)}
    before, after = whole.build("meta"), ablated.build("meta")
    assert cost(after) < cost(before)
    assert after.parameter_counts()["body"] < before.parameter_counts()["body"]
    assert prove(after, TOKENS) >= 3


@pytest.mark.parametrize("name", M2)
def test_a_bounded_kernel_costs_less_and_its_parameters_stay_when_sequences_grow(name: str) -> None:
    options = {"pattern": "MA"} if name == "hybrid" else {}
    bounded = config(name, taps=5, **options).build("meta")
    assert cost(bounded) < cost(config(name, **options).build("meta"))
    assert prove(bounded, TOKENS) >= 3
    longer = recipe(name, {**options, "taps": 5}).config(SHAPE, vocabulary=VOCABULARY, max_tokens=10 * TOKENS)
    assert longer.build("meta").parameter_counts()["body"] == bounded.parameter_counts()["body"]


@pytest.mark.parametrize(
    "options", [{"ablate": ["gates", "long_convolution"]}, {"taps": 9}, {"taps": 9, "bidirectional": True}]
)
def test_an_image_classifier_has_the_same_options(options: dict[str, Any]) -> None:
    arm = recipe("m2_vit", {"filter_order": 8, "filter_emb": 5, **options})
    shape = Shape(width=32, depth=1, ffn_width=32)
    model = arm.config(shape, vocabulary=3, max_tokens=arm.image_size.tokens).build("meta")  # type: ignore[union-attr]
    assert {layer.mixer.config.taps for layer in model.layers} == {options.get("taps")}
    assert prove(model, arm.image_size.tokens) >= 3  # type: ignore[union-attr]


def test_the_solver_matches_every_isolating_arm_to_one_budget() -> None:
    arms = [
        recipe("gemma3"),
        recipe("gemma3", {"short_convolution": 3}),
        recipe("gemma3", {"channel": "block_diagonal"}),
        recipe("m2_gpt"),
        recipe("m2_gpt", {"channel": "dense"}),
        *(recipe("m2_gpt", {"ablate": part}) for part in PARTS),
        recipe("m2_gpt", {"taps": 64}),
    ]
    sizes = solve_each(arms, Budget(params=300_000, tokens=1), vocabulary=512, max_tokens=128)
    for size in sizes:
        matched = size.parameters["body"] + size.parameters["head"]
        assert abs(matched / 300_000 - 1) <= 0.01


@pytest.mark.parametrize("options", [{"ablate": "long_convolution"}, {"ablate": "gates"}, {"taps": 5}])
def test_a_reverse_kernel_of_zeros_keeps_the_function_of_these_arms(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    decoder = config("m2_gpt", **options).build().double()
    redraw(decoder)  # kernels start at zero
    tokens = torch.randint(VOCABULARY, (2, TOKENS))
    with torch.no_grad():
        twin = bidirectional(decoder, reverse="zeros")
        torch.testing.assert_close(twin.hidden(tokens), decoder.hidden(tokens), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("option", "value"), [("ablate", "gates"), ("taps", 5)])
def test_an_export_refuses_mixers_that_the_released_m2_bert_does_not_have(option: str, value: Any) -> None:
    blueprint = Blueprint(
        architecture="m2_bert", options={option: value}, shape=SHAPE, vocabulary=VOCABULARY, max_tokens=TOKENS
    )
    with pytest.raises(CheckpointError, match=f"{option} {value!r} cannot be written"):
        refuse_changed_mixers(blueprint)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("gemma2", "short_convolution", 3),
        ("gemma2", "channel", "block_diagonal"),
        ("t5gemma", "short_convolution", 3),
    ],
)
def test_an_export_refuses_parts_that_hugging_face_does_not_have(name: str, option: str, value: Any) -> None:
    blueprint = Blueprint(
        architecture=name, options={option: value}, shape=SHAPE, vocabulary=VOCABULARY, max_tokens=TOKENS
    )
    with pytest.raises(CheckpointError, match=f"{option} {value!r} cannot be written") as error:
        family_for(name).write_config(blueprint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gemma3", {"short_convolution": 0}, "short_convolution: must be at least 1, got 0"),
        ("gemma3", {"short_convolution": "three"}, "short_convolution"),
        ("gemma3", {"channel": "blockdiagonal"}, "did you mean 'block_diagonal'"),
        ("gemma3", {"blocks": 8}, "blocks = 8 needs channel: block_diagonal"),
        ("gemma3", {"channel": "block_diagonal", "blocks": 0}, "blocks: must be at least 1, got 0"),
        ("m2_gpt", {"channel": "dense", "blocks": 8}, "blocks = 8 needs channel: block_diagonal"),
        ("m2_gpt", {"short_convolution": 3}, "unknown option 'short_convolution'"),
        ("hybrid", {"short_convolution": 100}, "short_convolution: must be at most 64, got 100"),
        (
            "gemma_encoder",
            {"short_convolution": 3, "generation_options": {"short_convolution": 4}},
            "short_convolution is given twice",
        ),
        ("t5gemma2", {"short_convolution": 3}, "short_convolution is not defined for merged attention"),
        ("m2_gpt", {"ablate": "gate"}, "did you mean 'gates'"),
        ("m2_bert", {"taps": 0}, "taps: must be at least 1, got 0"),
        ("hybrid", {"taps": 8, "ablate": ["long_convolution"]}, "leave out one of them"),
        ("m2_gpt", {"taps": 8, "polynomial_order": 2}, "leave out polynomial_order"),
    ],
)
def test_impossible_options_are_refused_in_one_line(name: str, options: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        recipe(name, options).config(SHAPE, vocabulary=VOCABULARY, max_tokens=TOKENS)
    assert "\n" not in str(error.value)


def test_an_encoder_decoder_convolves_the_self_attention_of_both_stacks() -> None:
    arm = config("t5gemma", short_convolution=3)
    assert {layer.mixer.short_convolution for layer in (*arm.encoder, *arm.decoder)} == {3}
