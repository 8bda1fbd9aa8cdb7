"""The Gemma encoder: a decoder's weights read in both directions, equal to ``transformers`` for every generation.

Legend: T tokens, V vocabulary, w sliding_window of a released configuration, r our radius (keys on each side).
Tolerance 1e-4 on float32 logits, as for the decoders; every length is past the window.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from arch_lab.laws import certify_model
from arch_lab.models import BidirectionalStack, Decoder, Shape, architectures, recipe, require_kind
from arch_lab.models.direction import bidirectional_stack
from arch_lab.models.gemma_encoder import bidirectional
from blocks.errors import ConfigError
from tests.arch_lab.test_gemma_against_transformers import V, common, layer_types, padded, tokens, twin

SHAPE = Shape(width=32, depth=5, ffn_width=48)
OPTIONS: dict[int, dict[str, Any]] = {
    1: {},
    2: {"query_scale": 24**-0.5, "attention_softcap": 2.0, "final_softcap": 8.0},
    3: {"query_scale": 24**-0.5, "pattern": "LLG"},
    4: {"pattern": "LLG", "global_head_width": 16, "global_kv_heads": 1, "final_softcap": 8.0},
}


def encoder(generation: int, radius: int) -> BidirectionalStack:
    """Weights of order one and gains far from where they start."""
    options = {"heads": 4, "kv_heads": 2, "head_width": 12, **OPTIONS[generation]}
    made = recipe(
        "gemma_encoder", {"generation": generation, "radius": radius, "generation_options": options}
    )
    torch.manual_seed(0)
    model = made.model(SHAPE, vocabulary=V, max_tokens=64)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 1.5 * parameter.shape[1] ** -0.5)
    assert isinstance(model, BidirectionalStack)
    return model


def theirs(generation: int, model: BidirectionalStack, window: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    shared = common(SHAPE, 4, 2, 12)
    if generation == 1:
        made = transformers.GemmaForCausalLM(
            transformers.GemmaConfig(**shared, hidden_activation="gelu_pytorch_tanh")
        )
    elif generation == 2:
        caps = {"query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 8.0}
        made = transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(**shared, **caps, sliding_window=window)
        )
    elif generation == 3:
        config = transformers.Gemma3TextConfig(
            **shared,
            sliding_window=window,
            query_pre_attn_scalar=24,
            layer_types=layer_types(5),
            use_bidirectional_attention=True,
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
            },
        )
        made = transformers.Gemma3ForCausalLM(config)
    else:
        config = transformers.Gemma4TextConfig(
            **shared,
            sliding_window=window,
            layer_types=layer_types(5),
            use_bidirectional_attention="all",
            attention_k_eq_v=True,
            global_head_dim=16,
            num_global_key_value_heads=1,
            final_logit_softcapping=8.0,
            hidden_size_per_layer_input=0,
            vocab_size_per_layer_input=V,
        )
        made = transformers.Gemma4ForCausalLM(config)
    return twin(model, made, sandwich=generation > 1)


@pytest.mark.parametrize(("generation", "window", "radius"), [(3, 8, 4), (3, 7, 3), (4, 8, 5), (4, 7, 4)])
@torch.no_grad()
def test_a_released_window_is_a_radius(generation: int, window: int, radius: int) -> None:
    """Gemma 3 sees w // 2 on each side; Gemma 4's code turns w into w // 2 + 1 too, but then includes that distance."""
    model = encoder(generation, radius)
    reference = theirs(generation, model, window)
    for t in (3, 9, 29):
        expected = reference(tokens(t)).logits
        torch.testing.assert_close(model(tokens(t)), expected, rtol=0, atol=1e-4)
    assert (encoder(generation, radius + 1)(tokens(29)) - expected).abs().max() > 0.1


@pytest.mark.parametrize(("generation", "radius"), [(3, 4), (4, 5)])
@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 6), (11, 1)])
@torch.no_grad()
def test_padding_on_either_side_equals_their_attention_mask(
    generation: int, radius: int, left: int, right: int
) -> None:
    model, valid = encoder(generation, radius), padded(29, left=left, right=right)
    expected = theirs(generation, model, 8)(tokens(29), attention_mask=valid).logits
    found = model(tokens(29), segments=valid)
    torch.testing.assert_close(found[valid > 0], expected[valid > 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("generation", [1, 2])
@torch.no_grad()
def test_older_generations_equal_theirs_under_an_explicit_mask(generation: int) -> None:
    """Their switch is read by fused kernels alone: under eager attention, the only kind Gemma 2 has, they stay causal."""
    model, radius, t = encoder(generation, 4), 4, 29
    everything = torch.ones(2, 1, t, t, dtype=torch.bool)
    masks = additive({"full_attention": everything, "sliding_attention": everything & near(t, radius)})
    mask = masks["full_attention"] if generation == 1 else masks
    expected = theirs(generation, model, 8)(tokens(t), attention_mask=mask).logits
    torch.testing.assert_close(model(tokens(t)), expected, rtol=0, atol=1e-4)


def near(t: int, radius: int) -> Tensor:
    return (torch.arange(t)[:, None] - torch.arange(t)[None, :]).abs() <= radius


def additive(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """0 where attention is allowed and the most negative float32 elsewhere, as their eager code wants it."""
    return {name: torch.where(mask, 0.0, torch.finfo(torch.float32).min) for name, mask in masks.items()}


def test_gradients_equal_those_of_transformers() -> None:
    model = encoder(3, 4)
    reference, inputs = theirs(3, model, 8), tokens(21)
    table = reference.get_parameter("model.embed_tokens.weight")
    mine = torch.autograd.grad(
        nn.functional.cross_entropy(model(inputs).flatten(0, 1), inputs.flatten()), model.embedding.weight
    )[0]
    expected = torch.autograd.grad(
        nn.functional.cross_entropy(reference(inputs).logits.flatten(0, 1), inputs.flatten()), table
    )[0]
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


# --- a decoder's twin --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", [1, 2, 3, 4])
def test_a_decoders_weights_load_and_its_last_state_is_that_of_the_encoder_where_nothing_lies_ahead(
    generation: int,
) -> None:
    """One token has no future, so the two agree there to the bit; on more they must not."""
    model = encoder(generation, 4)
    causal = recipe(
        f"gemma{generation}", {"heads": 4, "kv_heads": 2, "head_width": 12, **OPTIONS[generation]}
    )
    decoder = causal.model(SHAPE, vocabulary=V, max_tokens=64)
    model.load_state_dict(decoder.state_dict())
    with torch.no_grad():
        assert torch.equal(model.hidden(tokens(1)), decoder.hidden(tokens(1)))
        assert (model.hidden(tokens(9))[:, 0] - decoder.hidden(tokens(9))[:, 0]).abs().max() > 1e-3
    assert model.parameter_counts() == decoder.parameter_counts()


@torch.no_grad()
def test_the_first_state_feels_the_last_token_through_a_global_layer() -> None:
    model, changed = encoder(3, 2), tokens(29).clone()
    changed[:, -1] = (changed[:, -1] + 1) % V
    assert (model.hidden(tokens(29))[:, 0] - model.hidden(changed)[:, 0]).abs().max() > 1e-4


@torch.no_grad()
def test_logits_are_hidden_states_times_the_tied_table() -> None:
    model = encoder(3, 4)
    assert torch.equal(
        model(tokens(9)), nn.functional.linear(model.hidden(tokens(9)), model.embedding.weight)
    )


# --- what it refuses ---------------------------------------------------------------------------------------------


def test_it_is_an_encoder_to_everybody() -> None:
    model = encoder(3, 4)
    assert "gemma_encoder" in architectures("encoder") and not model.causal
    assert not certify_model(model, vocabulary=V).passed
    assert model.state_bytes(4) == 0 and not hasattr(model, "init_state")
    with pytest.raises(ConfigError, match=r"'gemma_encoder' is a bidirectional encoder.*gemma4"):
        require_kind(recipe("gemma_encoder"), "decoder")


def test_causal_layers_do_not_make_an_encoder() -> None:
    config = recipe("gemma3").config(SHAPE, vocabulary=V, max_tokens=64)
    with pytest.raises(ConfigError, match="Gemma3Attention is causal"):
        bidirectional_stack(config, config.layers).build()
    assert isinstance(Decoder(config), Decoder)


def test_a_mixer_without_a_mask_cannot_have_it_taken_off() -> None:
    config = recipe("m2_gpt").config(Shape(width=32, depth=1, ffn_width=32), vocabulary=V, max_tokens=8)
    with pytest.raises(ConfigError, match="M2MixerConfig is not attention"):
        bidirectional(config, radius=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generation_options": {"window": 8}}, "give radius"),
        ({"radius": -1}, "radius must be at least 0"),
        ({"generation": 5}, "not one of 1, 2, 3, 4"),
        ({"generation_options": {"head_with": 8}}, "'gemma3'.*did you mean 'head_width'"),
    ],
    ids=str,
)
def test_impossible_options_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        recipe("gemma_encoder", options)
    assert "\n" not in str(error.value)
