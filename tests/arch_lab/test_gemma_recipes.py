"""The Gemma recipes: published layer patterns and counts from explicit options, and the rules that follow the width.

Legend: D width, H query heads, K key/value heads, C head width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import pytest

from arch_lab.budget import Budget, solve
from arch_lab.models import Shape, recipe
from arch_lab.models.gemma import Gemma1, Gemma2, Gemma3, GemmaRecipe, default_head_width
from arch_lab.models.gemma4 import Gemma4
from blocks.attention.gemma import GemmaAttention
from blocks.errors import ConfigError

# (recipe, shape, vocabulary) -> total, embedding: counted from the released configurations; the non-embedding part is what
# the papers print (Gemma 1 and 2 to the digit, Gemma 3 in millions)
PUBLISHED = {
    "gemma1-2B": (Gemma1(heads=8, head_width=256), (2048, 18, 16384), 256_000, 2_506_172_416, 524_288_000),
    "gemma1-7B": (
        Gemma1(heads=16, kv_heads=None, head_width=256),
        (3072, 28, 24576),
        256_000,
        8_537_680_896,
        786_432_000,
    ),
    "gemma2-2B": (
        Gemma2(heads=8, head_width=256, window=4096),
        (2304, 26, 9216),
        256_000,
        2_614_341_888,
        589_824_000,
    ),
    "gemma2-27B": (
        Gemma2(heads=32, head_width=128, window=4096, query_scale=144**-0.5),
        (4608, 46, 36864),
        256_000,
        27_227_128_320,
        1_179_648_000,
    ),
    "gemma3-270M": (Gemma3(heads=4, head_width=256), (640, 18, 2048), 262_144, 268_098_176, 167_772_160),
    "gemma3-1B": (Gemma3(heads=4, head_width=256), (1152, 26, 6912), 262_144, 999_885_952, 301_989_888),
    "gemma3-4B": (
        Gemma3(heads=8, kv_heads=4, head_width=256, window=1024, rope_factor=8.0),
        (2560, 34, 10240),
        262_208,
        3_880_263_168,
        671_252_480,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    recipe, (width, depth, ffn_width), vocabulary, total, embedding = PUBLISHED[name]
    shape = Shape(width=width, depth=depth, ffn_width=ffn_width)
    counts = recipe.config(shape, vocabulary=vocabulary, max_tokens=8192).build("meta").parameter_counts()
    assert counts == {"embedding": embedding, "head": 0, "body": total - embedding, "total": total}


@pytest.mark.parametrize(
    ("name", "local", "whole"), [("gemma2-2B", 13, 13), ("gemma3-1B", 22, 4), ("gemma3-4B", 29, 5)]
)
def test_layer_patterns_give_the_published_numbers_of_local_and_global_layers(
    name: str, local: int, whole: int
) -> None:
    recipe, (width, depth, ffn_width), *_ = PUBLISHED[name]
    layers = recipe.config(
        Shape(width=width, depth=depth, ffn_width=ffn_width), vocabulary=8, max_tokens=8
    ).layers
    windows = [layer.mixer.window is not None for layer in layers]
    assert (sum(windows), len(windows) - sum(windows)) == (local, whole) and windows[0]


# --- the dials ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [Gemma1(), Gemma2(), Gemma3(), Gemma4()], ids=lambda r: r.name)
@pytest.mark.parametrize("width", [16, 32, 64, 96, 160, 224, 256, 512, 544, 1024, 1152])
def test_every_width_the_solver_may_try_builds(recipe: GemmaRecipe, width: int) -> None:
    model = recipe.config(Shape(width=width, depth=2, ffn_width=64), vocabulary=8, max_tokens=8).build("meta")
    mixer = model.layers[0].mixer  # of two layers the first is local in every pattern that has local ones
    assert isinstance(mixer, GemmaAttention)
    assert (
        mixer.config.heads * mixer.config.channels == width
        and mixer.config.heads % mixer.config.kv_heads == 0
    )


def test_heads_widen_with_the_model() -> None:
    assert [default_head_width(w) for w in (16, 256, 480, 512, 544, 1024, 2048)] == [
        16,
        32,
        32,
        64,
        32,
        128,
        256,
    ]


def test_kv_groups_fall_to_a_divisor_of_the_heads() -> None:
    assert [Gemma3().head_shape(w).kv_heads for w in (32, 64, 96, 128, 192, 256)] == [1, 1, 1, 1, 2, 2]


def test_an_explicit_head_width_sets_the_steps_of_the_solver() -> None:
    assert (
        Gemma2(head_width=48).width_multiple,
        Gemma2().width_multiple,
        Gemma2(heads=6).width_multiple,
    ) == (48, 32, 12)


def test_gemma3_gives_local_and_global_layers_their_own_rope() -> None:
    layers = (
        Gemma3(pattern="LG", rope_factor=8.0, window=4)
        .config(Shape(width=32, depth=2, ffn_width=8), vocabulary=8, max_tokens=8)
        .layers
    )
    seen = [(layer.mixer.window, layer.mixer.rope_base, layer.mixer.rope_factor) for layer in layers]
    assert seen == [(4, 10_000.0, 1.0), (None, 1_000_000.0, 8.0)]


def test_gemma2_caps_scores_at_50_and_logits_at_30_as_gemma4_does_and_the_others_cap_nothing() -> None:
    caps = {}
    for generation in (Gemma1(), Gemma2(), Gemma3(), Gemma4()):
        config = generation.config(Shape(width=32, depth=1, ffn_width=8), vocabulary=8, max_tokens=8)
        caps[generation.name] = (
            getattr(config.layers[0].mixer, "softcap", None),
            config.embedding.final_softcap,
        )
    assert caps == {
        "gemma1": (None, None),
        "gemma2": (50.0, 30.0),
        "gemma3": (None, None),
        "gemma4": (None, 30.0),
    }


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (Gemma3, {"pattern": "LLX"}, "pattern must be letters"),
        (Gemma3, {"pattern": ""}, "pattern must be letters"),
        (Gemma2, {"window": 0}, "window must be at least 1"),
        (Gemma2, {"kv_groups": 0}, "kv_groups must be at least 1"),
        (Gemma4, {"global_kv_groups": 0}, "global_kv_groups must be at least 1"),
        (Gemma1, {"head_with": 8}, "did you mean 'head_width'"),
        (Gemma2, {"rope_fraction": 1.1}, "'gemma2': rope_fraction must be between 0"),
        (Gemma3, {"local_rope_fraction": -1.0}, "'gemma3': rope_fraction must be between 0"),
        (Gemma3, {"rope_drop": "high"}, "'gemma3': rope_drop 'high' drops nothing"),
    ],
)
def test_impossible_options_are_refused(
    recipe: type[GemmaRecipe], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe.from_options(options)


def test_a_width_that_is_not_whole_heads_is_refused_and_says_what_to_set() -> None:
    with pytest.raises(
        ConfigError, match="width 100 is not a multiple of head_width 32; set heads or head_width"
    ):
        Gemma3().config(Shape(width=100, depth=1, ffn_width=8), vocabulary=8, max_tokens=8)


# --- p-RoPE ------------------------------------------------------------------------------------------------------


def fractions(name: str, options: dict[str, Any]) -> list[tuple[float, str]]:
    layers = (
        recipe(name, options).config(Shape(width=32, depth=2, ffn_width=8), vocabulary=8, max_tokens=8).layers
    )
    return [(layer.mixer.rope_fraction, layer.mixer.rope_drop) for layer in layers]


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("gemma1", {"rope_fraction": 0.25}, [(0.25, "low"), (0.25, "low")]),
        ("gemma2", {"rope_fraction": 0.75, "rope_drop": "high"}, [(0.75, "high"), (0.75, "high")]),
        (
            "gemma3",
            {"pattern": "LG", "rope_fraction": 0.75, "rope_drop": "high"},
            [(1.0, "low"), (0.75, "high")],
        ),
        (
            "gemma3",
            {"pattern": "LG", "local_rope_fraction": 0, "rope_fraction": 0},
            [(0.0, "low"), (0.0, "low")],
        ),
        ("gemma4", {}, [(1.0, "low"), (0.25, "low")]),
        ("gemma4", {"rope_fraction": 1.0}, [(1.0, "low"), (1.0, "low")]),
    ],
)
def test_a_recipe_gives_the_fraction_to_the_layers_it_is_meant_for(
    name: str, options: dict[str, Any], found: list[Any]
) -> None:
    assert fractions(name, options) == found


@pytest.mark.parametrize("name", ["gemma1", "gemma2", "gemma3"])
def test_a_fraction_changes_neither_parameters_nor_canonical_flops(name: str) -> None:
    """So that arms of an ablation over p stand at one budget."""
    shape, counted = Shape(width=64, depth=6, ffn_width=64), set()
    for p in (0.0, 0.25, 0.75, 1.0):
        model = recipe(name, {"rope_fraction": p}).config(shape, vocabulary=8, max_tokens=32).build("meta")
        counted.add((model.parameter_counts()["total"], model.cost(32).forward()))
    assert len(counted) == 1


# --- Gemma 4 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "depth", "kinds"),
    [("LLLLLG", 8, "LLLLLGLG"), ("LLLLLG", 6, "LLLLLG"), ("LG", 1, "G"), ("L", 3, "LLG"), ("G", 2, "GG")],
)
def test_the_last_layer_of_gemma4_is_always_global(pattern: str, depth: int, kinds: str) -> None:
    layers = (
        Gemma4(pattern=pattern)
        .config(Shape(width=32, depth=depth, ffn_width=8), vocabulary=8, max_tokens=8)
        .layers
    )
    assert "".join("G" if layer.mixer.window is None else "L" for layer in layers) == kinds


def test_global_layers_of_gemma4_have_wider_and_fewer_key_heads_from_one_projection() -> None:
    layers = Gemma4().config(Shape(width=512, depth=2, ffn_width=8), vocabulary=8, max_tokens=8).layers
    seen = [
        (m.heads, m.kv_heads, m.channels, m.k_eq_v, m.rope_base, m.query_scale)
        for m in (layer.mixer for layer in layers)
    ]
    assert seen == [(8, 4, 64, False, 10_000.0, 1.0), (8, 1, 128, True, 1_000_000.0, 1.0)]


def test_the_scalar_of_a_layer_is_trained_unless_kept_and_saved_in_either_case() -> None:
    shape = Shape(width=32, depth=2, ffn_width=8)
    trained, kept = (Gemma4(train_scale=t).model(shape, vocabulary=8, max_tokens=8) for t in (True, False))
    assert set(trained.state_dict()) == set(kept.state_dict())
    missing = {name for name, _ in trained.named_parameters()} - {name for name, _ in kept.named_parameters()}
    assert missing == {"layers.0.scale.weight", "layers.1.scale.weight"}


@pytest.mark.parametrize("params", [300_000, 1_000_000, 20_000_000])
def test_a_last_layer_of_another_size_is_reckoned_with_in_a_budget(params: int) -> None:
    budget = Budget(params=params, tokens=1)
    found = solve(recipe("gemma4"), budget, vocabulary=257, max_tokens=128)
    counts = (
        recipe("gemma4").config(found.shape, vocabulary=257, max_tokens=128).build("meta").parameter_counts()
    )
    assert counts == found.parameters and found.worst <= budget.tolerance
