"""Gemma 1, 2 and 3 equal the implementations of ``transformers``, weight for weight, and count what the papers print.

Legend: D width, T tokens, V vocabulary, C head width, w window.
Tolerance 1e-4 on float32 logits: rounding between the two codes reaches 2e-5, while the smallest real mistake (exact instead
of tanh GELU) moves logits of this size by 1e-3. Every length is past the window: shorter ones cannot see a lost window.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from arch_lab.architecture.decoder import Decoder, meta_model
from arch_lab.architecture.gemma import Gemma1, Gemma2, Gemma3, GemmaRecipe, default_head_width
from arch_lab.architecture.recipe import Shape
from arch_lab.interop.gemma import their_name
from blocks.attention.gemma import GemmaAttention
from blocks.errors import ConfigError

V, W = 97, 8


def randomised(recipe: GemmaRecipe, shape: Shape) -> Decoder:
    """Weights of order one and gains far from 1, so that a norm in the wrong place is seen."""
    torch.manual_seed(0)
    model = recipe.model(shape, vocabulary=V, max_tokens=64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() == 1 else 1.5 * parameter.shape[1] ** -0.5))
    return model


def twin(model: Decoder, theirs: nn.Module, *, sandwich: bool) -> nn.Module:
    """``theirs`` with the weights of ``model``; every one of their parameters must be filled."""
    renamed = {their_name(name, sandwich=sandwich): value for name, value in model.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert unexpected == [] and [m for m in missing if m != "lm_head.weight"] == []
    theirs.tie_weights()
    return theirs.eval()


def common(shape: Shape, heads: int, kv_heads: int, head_width: int) -> dict[str, Any]:
    return {
        "vocab_size": V,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn_width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_width,
        "max_position_embeddings": 64,
        "attn_implementation": "eager",
    }


def gemma1(kv_heads: int) -> tuple[Decoder, nn.Module]:
    transformers = pytest.importorskip("transformers")
    shape = Shape(width=32, depth=3, ffn_width=48)
    # head_width 12: attention is wider than the model, as in the 7B
    model = randomised(Gemma1(heads=4, kv_heads=kv_heads, head_width=12), shape)
    config = transformers.GemmaConfig(**common(shape, 4, kv_heads, 12), hidden_activation="gelu_pytorch_tanh")
    return model, twin(model, transformers.GemmaForCausalLM(config), sandwich=False)


def gemma2() -> tuple[Decoder, nn.Module]:
    transformers = pytest.importorskip("transformers")
    shape = Shape(width=32, depth=4, ffn_width=48)
    model = randomised(Gemma2(heads=4, head_width=12, window=W, query_scale=24**-0.5, attention_softcap=2.0, final_softcap=8.0), shape)
    config = transformers.Gemma2Config(
        **common(shape, 4, 2, 12), sliding_window=W, query_pre_attn_scalar=24, attn_logit_softcapping=2.0, final_logit_softcapping=8.0
    )
    return model, twin(model, transformers.Gemma2ForCausalLM(config), sandwich=True)


def gemma3(rope_factor: float) -> tuple[Decoder, nn.Module]:
    transformers = pytest.importorskip("transformers")
    shape = Shape(width=32, depth=5, ffn_width=48)
    model = randomised(Gemma3(heads=4, head_width=12, window=W, query_scale=24**-0.5, pattern="LLG", rope_factor=rope_factor), shape)
    scaled = {"rope_type": "linear", "factor": rope_factor} if rope_factor != 1 else {"rope_type": "default"}
    config = transformers.Gemma3TextConfig(
        **common(shape, 4, 1, 12),
        sliding_window=W,
        query_pre_attn_scalar=24,
        layer_types=[{"L": "sliding_attention", "G": "full_attention"}["LLG"[i % 3]] for i in range(5)],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {**scaled, "rope_theta": 1_000_000.0},
        },
    )
    return model, twin(model, transformers.Gemma3ForCausalLM(config), sandwich=True)


FAMILY = {
    "gemma1-mqa": lambda: gemma1(1),
    "gemma1-mha": lambda: gemma1(4),
    "gemma2": gemma2,
    "gemma3": lambda: gemma3(1.0),
    "gemma3-factor-8": lambda: gemma3(8.0),
}


@pytest.fixture(scope="module", params=FAMILY)
def pair(request: pytest.FixtureRequest) -> tuple[Decoder, nn.Module]:
    return FAMILY[request.param]()


def tokens(t: int) -> Tensor:
    return torch.randint(1, V, (2, t), generator=torch.Generator().manual_seed(t))


@pytest.mark.parametrize("t", [W - 1, W + 1, 21, 33])
@torch.no_grad()
def test_logits_equal_those_of_transformers(pair: tuple[Decoder, nn.Module], t: int) -> None:
    ours, theirs = pair
    expected = theirs(tokens(t)).logits
    assert expected.abs().max() > 3  # large enough that a mistake would show
    torch.testing.assert_close(ours(tokens(t)), expected, rtol=0, atol=1e-4)


def test_gradients_equal_those_of_transformers(pair: tuple[Decoder, nn.Module]) -> None:
    ours, theirs = pair
    theirs_by_name = dict(theirs.named_parameters())
    inputs, losses = tokens(21), []
    for logits in (ours(inputs), theirs(inputs).logits):
        losses.append(nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs[:, 1:].flatten()))
    sandwich = any("mixer_out_norm" in name for name, _ in ours.named_parameters())
    names = [name for name, _ in ours.named_parameters()]
    mine = torch.autograd.grad(losses[0], list(ours.parameters()))
    reference = torch.autograd.grad(losses[1], [theirs_by_name[their_name(n, sandwich=sandwich)] for n in names])
    for name, a, b in zip(names, mine, reference, strict=True):
        # float32 rounding relative to the largest gradient of the same parameter
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3 * float(b.abs().max()), msg=lambda m, name=name: f"{name}: {m}")


@torch.no_grad()
def test_cached_decoding_equals_transformers_past_the_window(pair: tuple[Decoder, nn.Module]) -> None:
    ours, theirs = pair
    inputs = tokens(33)
    state, parts = ours.init_state(2), []
    for chunk in inputs.split([11, 1, 1, 13, 1, 6], dim=1):
        logits, state = ours.prefill(chunk, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), theirs(inputs).logits, rtol=0, atol=1e-4)


# --- published sizes ---------------------------------------------------------------------------------------------

# (recipe, shape, vocabulary) -> total, embedding: counted from the released configurations; the non-embedding part is what
# the papers print (Gemma 1 and 2 to the digit, Gemma 3 in millions)
PUBLISHED = {
    "gemma1-2B": (Gemma1(heads=8, head_width=256), (2048, 18, 16384), 256_000, 2_506_172_416, 524_288_000),
    "gemma1-7B": (Gemma1(heads=16, kv_heads=None, head_width=256), (3072, 28, 24576), 256_000, 8_537_680_896, 786_432_000),
    "gemma2-2B": (Gemma2(heads=8, head_width=256, window=4096), (2304, 26, 9216), 256_000, 2_614_341_888, 589_824_000),
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
    counts = meta_model(recipe.decoder(shape, vocabulary=vocabulary, max_tokens=8192)).parameter_counts()
    assert counts == {"embedding": embedding, "head": 0, "body": total - embedding, "total": total}


@pytest.mark.parametrize(("name", "local", "whole"), [("gemma2-2B", 13, 13), ("gemma3-1B", 22, 4), ("gemma3-4B", 29, 5)])
def test_layer_patterns_give_the_published_numbers_of_local_and_global_layers(name: str, local: int, whole: int) -> None:
    recipe, (width, depth, ffn_width), *_ = PUBLISHED[name]
    layers = recipe.decoder(Shape(width=width, depth=depth, ffn_width=ffn_width), vocabulary=8, max_tokens=8).layers
    windows = [layer.mixer.window is not None for layer in layers]
    assert (sum(windows), len(windows) - sum(windows)) == (local, whole) and windows[0]


# --- the dials ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [Gemma1(), Gemma2(), Gemma3()], ids=lambda r: r.name)
@pytest.mark.parametrize("width", [16, 32, 64, 96, 160, 224, 256, 512, 544, 1024, 1152])
def test_every_width_the_solver_may_try_builds(recipe: GemmaRecipe, width: int) -> None:
    model = meta_model(recipe.decoder(Shape(width=width, depth=2, ffn_width=64), vocabulary=8, max_tokens=8))
    mixer = model.layers[0].mixer
    assert isinstance(mixer, GemmaAttention)
    assert mixer.config.heads * mixer.config.channels == width and mixer.config.heads % mixer.config.kv_heads == 0


def test_heads_widen_with_the_model() -> None:
    assert [default_head_width(w) for w in (16, 256, 480, 512, 544, 1024, 2048)] == [16, 32, 32, 64, 32, 128, 256]


def test_kv_groups_fall_to_a_divisor_of_the_heads() -> None:
    assert [Gemma3().head_shape(w).kv_heads for w in (32, 64, 96, 128, 192, 256)] == [1, 1, 1, 1, 2, 2]


def test_an_explicit_head_width_sets_the_steps_of_the_solver() -> None:
    assert (Gemma2(head_width=48).width_multiple, Gemma2().width_multiple, Gemma2(heads=6).width_multiple) == (48, 32, 12)


def test_gemma3_gives_local_and_global_layers_their_own_rope() -> None:
    layers = (
        Gemma3(pattern="LG", rope_factor=8.0, window=4).decoder(Shape(width=32, depth=2, ffn_width=8), vocabulary=8, max_tokens=8).layers
    )
    seen = [(layer.mixer.window, layer.mixer.rope_base, layer.mixer.rope_factor) for layer in layers]
    assert seen == [(4, 10_000.0, 1.0), (None, 1_000_000.0, 8.0)]


def test_gemma2_caps_scores_at_50_and_logits_at_30_and_the_others_cap_nothing() -> None:
    caps = {}
    for recipe in (Gemma1(), Gemma2(), Gemma3()):
        config = recipe.decoder(Shape(width=32, depth=1, ffn_width=8), vocabulary=8, max_tokens=8)
        caps[recipe.name] = (getattr(config.layers[0].mixer, "softcap", None), config.embedding.final_softcap)
    assert caps == {"gemma1": (None, None), "gemma2": (50.0, 30.0), "gemma3": (None, None)}


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (Gemma3, {"pattern": "LLX"}, "pattern must be letters"),
        (Gemma3, {"pattern": ""}, "pattern must be letters"),
        (Gemma2, {"window": 0}, "window must be at least 1"),
        (Gemma2, {"kv_groups": 0}, "kv_groups must be at least 1"),
        (Gemma1, {"head_with": 8}, "did you mean 'head_width'"),
    ],
)
def test_impossible_options_are_refused(recipe: type[GemmaRecipe], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe.from_options(options)


def test_a_width_that_is_not_whole_heads_is_refused_and_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="width 100 is not a multiple of head_width 32; set heads or head_width"):
        Gemma3().decoder(Shape(width=100, depth=1, ffn_width=8), vocabulary=8, max_tokens=8)
