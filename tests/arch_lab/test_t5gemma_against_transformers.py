"""T5Gemma and T5Gemma 2 equal the implementations of ``transformers``, weight for weight.

Legend: V vocabulary, W the decoder's window, R the encoder's radius, N its span.
Tolerance 1e-4 on float32 logits, as for the decoders: rounding stays below 3e-5 and the smallest sensitivity measured
for T5Gemma (its soft-cap left out) is 0.2. Source and target are longer than any window. T5Gemma runs eager there: the only path
that takes a soft-cap, and the one whose encoder sees abs(q - k) <= window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from arch_lab.checkpoints.interop.t5gemma_names import t5gemma2_name, t5gemma_name
from arch_lab.models.encoder_decoder import EncoderDecoder
from arch_lab.models.recipe import Recipe, Shape
from arch_lab.models.t5gemma import EncoderSize, T5Gemma, T5Gemma2

V, W, SOURCE, TARGET = 97, 6, 25, 23
Pair = tuple[EncoderDecoder, nn.Module, Callable[[str], str]]


def randomised(recipe: Recipe, shape: Shape) -> EncoderDecoder:
    """Weights of order one and gains far from 1, so that a norm in the wrong place is seen."""
    torch.manual_seed(0)
    model = recipe.model(shape, vocabulary=V, max_tokens=64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn_like(parameter)
                * (0.3 if parameter.dim() == 1 else 1.5 * parameter.shape[1] ** -0.5)
            )
    return model


def twin(model: EncoderDecoder, theirs: nn.Module, name_of: Callable[[str], str]) -> Pair:
    """``theirs`` with the weights of ``model``; every text parameter of theirs must be filled."""
    renamed = {name_of(name): value for name, value in model.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    theirs.tie_weights()
    tied = {
        "lm_head.out_proj.weight",
        "model.decoder.embed_tokens.weight",
        "model.decoder.embed_tokens.eoi_embedding",
    }
    elsewhere = (
        "model.encoder.vision_tower",
        "model.encoder.multi_modal_projector",
        "model.encoder.text_model.embed_tokens.eoi",
    )
    assert unexpected == [] and [m for m in missing if m not in tied and not m.startswith(elsewhere)] == []
    return model, theirs.eval(), name_of


def stack(width: int, depth: int, ffn_width: int, kv_heads: int, pattern: str) -> dict[str, Any]:
    return {
        "vocab_size": V,
        "hidden_size": width,
        "intermediate_size": ffn_width,
        "num_hidden_layers": depth,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "head_dim": 12,
        "max_position_embeddings": 64,
        "query_pre_attn_scalar": 24,
        "layer_types": [
            {"L": "sliding_attention", "G": "full_attention"}[pattern[i % len(pattern)]] for i in range(depth)
        ],
    }


def t5gemma(encoder: EncoderSize | None) -> Pair:
    transformers = pytest.importorskip("transformers")
    shape = Shape(width=32, depth=3, ffn_width=48)
    options = {
        "attention_softcap": 2.0,
        "final_softcap": 8.0,
        "query_scale": 24**-0.5,
        "window": W,
        "encoder_radius": W,
    }
    model = randomised(T5Gemma(heads=4, kv_heads=2, head_width=12, encoder=encoder, **options), shape)
    caps = {"sliding_window": W, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 8.0}
    ours = stack(32, 3, 48, 2, "LG") | caps
    theirs = stack(encoder.width, encoder.depth, encoder.ffn_width, 1, "LG") | caps if encoder else ours
    config = transformers.T5GemmaConfig(
        encoder=theirs, decoder=ours, vocab_size=V, attn_implementation="eager"
    )
    return twin(model, transformers.T5GemmaForConditionalGeneration(config), t5gemma_name)


def t5gemma2(span: int) -> Pair:
    transformers = pytest.importorskip("transformers")
    shape, pattern = Shape(width=32, depth=4, ffn_width=48), "LLG"
    recipe = T5Gemma2(
        heads=4,
        kv_heads=2,
        head_width=12,
        query_scale=24**-0.5,
        window=span,
        encoder_span=span,
        pattern=pattern,
        rope_factor=8.0,
    )
    model = randomised(recipe, shape)
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    }
    text = stack(32, 4, 48, 2, pattern) | {"sliding_window": span, "rope_parameters": rope}
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 8,
        "patch_size": 4,
    }
    config = transformers.T5Gemma2Config(
        encoder={
            "text_config": text,
            "vision_config": vision | {"model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 1,
        },
        decoder=text,
        eoi_token_index=V + 1,
        image_token_index=V + 2,
    )
    config._attn_implementation = "eager"
    return twin(model, transformers.T5Gemma2ForConditionalGeneration(config), t5gemma2_name)


FAMILY: dict[str, Callable[[], Pair]] = {
    "t5gemma-balanced": lambda: t5gemma(None),
    "t5gemma-unbalanced": lambda: t5gemma(
        EncoderSize(width=40, depth=4, ffn_width=56, heads=4, kv_heads=1, head_width=12)
    ),
    "t5gemma2-even-span": lambda: t5gemma2(6),
    "t5gemma2-odd-span": lambda: t5gemma2(7),
}


@pytest.fixture(scope="module", params=FAMILY)
def pair(request: pytest.FixtureRequest) -> Pair:
    return FAMILY[request.param]()


def tokens(t: int, seed: int) -> Tensor:
    return torch.randint(1, V, (2, t), generator=torch.Generator().manual_seed(seed))


def padding(side: str) -> Tensor:
    """(2, SOURCE) ids of a source whose second row is padded on one side."""
    ids = torch.ones(2, SOURCE, dtype=torch.long)
    if side == "left":
        ids[1, :9] = 0
    if side == "right":
        ids[1, -9:] = 0
    return ids


@pytest.mark.parametrize("side", ["none", "left", "right"])
@torch.no_grad()
def test_logits_equal_those_of_transformers(pair: Pair, side: str) -> None:
    ours, theirs, _ = pair
    source, target, ids = tokens(SOURCE, 1), tokens(TARGET, 2), padding(side)
    expected = theirs(input_ids=source, attention_mask=ids, decoder_input_ids=target).logits
    assert expected.abs().max() > 3  # large enough that a mistake would show
    torch.testing.assert_close(
        ours(source, target, None if side == "none" else ids), expected, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("t", [1, W - 1, W, W + 1, 2 * W + 1, 3 * W + 2])
@torch.no_grad()
def test_logits_are_equal_around_the_window(pair: Pair, t: int) -> None:
    ours, theirs, _ = pair
    source, target = tokens(t, 3), tokens(t, 4)
    torch.testing.assert_close(
        ours(source, target), theirs(input_ids=source, decoder_input_ids=target).logits, rtol=0, atol=1e-4
    )


def test_gradients_equal_those_of_transformers(pair: Pair) -> None:
    ours, theirs, name_of = pair
    source, target, ids = tokens(SOURCE, 1), tokens(TARGET, 2), padding("left")
    names, theirs_by_name = [name for name, _ in ours.named_parameters()], dict(theirs.named_parameters())
    losses = [
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), target[:, 1:].flatten())
        for logits in (
            ours(source, target, ids),
            theirs(input_ids=source, attention_mask=ids, decoder_input_ids=target).logits,
        )
    ]
    mine = torch.autograd.grad(losses[0], list(ours.parameters()))
    reference = torch.autograd.grad(losses[1], [theirs_by_name[name_of(n)] for n in names])
    for name, a, b in zip(names, mine, reference, strict=True):
        # float32 rounding relative to the largest gradient of the same parameter
        torch.testing.assert_close(
            a, b, rtol=0, atol=1e-3 * float(b.abs().max()), msg=lambda m, name=name: f"{name}: {m}"
        )


@torch.no_grad()
def test_greedy_decoding_gives_the_tokens_of_transformers_over_three_windows(pair: Pair) -> None:
    """The likeliest token not used yet: random tied models repeat one token for ever, which would compare nothing."""
    ours, theirs, _ = pair
    source, ids, new = tokens(SOURCE, 5), padding("left"), 3 * W + 2
    first = torch.full((2, 1), 2)
    theirs.generation_config.eos_token_id = None  # type: ignore[union-attr]
    expected = theirs.generate(  # type: ignore[operator]
        input_ids=source,
        attention_mask=ids,
        decoder_input_ids=first,
        max_new_tokens=new,
        do_sample=False,
        use_cache=True,
        no_repeat_ngram_size=1,
    )
    logits, state = ours.prefill(first, ours.init_state(source, ids))
    found, scores = first, logits[:, -1]
    for _ in range(new):
        chosen = scores.scatter(1, found, float("-inf")).argmax(dim=-1)
        found = torch.cat([found, chosen[:, None]], dim=1)
        scores, state = ours.step(chosen, state)
    assert torch.equal(found, expected)


@torch.no_grad()
def test_cached_decoding_equals_the_parallel_forward_past_the_window(pair: Pair) -> None:
    ours, _, _ = pair
    source, target, ids = tokens(SOURCE, 1), tokens(TARGET, 2), padding("right")
    state, parts = ours.init_state(source, ids), []
    for chunk in target.split([9, 1, 1, 7, 5], dim=1):
        logits, state = ours.prefill(chunk, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), ours(source, target, ids), rtol=0, atol=1e-4)
