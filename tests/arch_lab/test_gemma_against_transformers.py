"""Gemma 1 to 4 equal the implementations of ``transformers``, weight for weight: logits, gradients, padding, decoding.

Legend: D width, T tokens, V vocabulary, C head width, w window.
Tolerance 1e-4 on float32 logits: rounding between the two codes reaches 2e-5, while the smallest real mistake (exact instead
of tanh GELU) moves logits of this size by 1e-3. Every length is past the window: shorter ones cannot see a lost window.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from arch_lab.checkpoints.interop.gemma import their_name
from arch_lab.models.decoder import Decoder
from arch_lab.models.gemma import Gemma1, Gemma2, Gemma3, GemmaRecipe
from arch_lab.models.gemma4 import Gemma4
from arch_lab.models.recipe import Shape

V, W = 97, 8


def randomised(recipe: GemmaRecipe, shape: Shape) -> Decoder:
    """Weights of order one and gains far from 1, so that a norm in the wrong place is seen."""
    torch.manual_seed(0)
    model = recipe.model(shape, vocabulary=V, max_tokens=64)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # gains and scalars: from where they start, 0 or 1
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 1.5 * parameter.shape[1] ** -0.5)
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
    model = randomised(
        Gemma2(
            heads=4, head_width=12, window=W, query_scale=24**-0.5, attention_softcap=2.0, final_softcap=8.0
        ),
        shape,
    )
    config = transformers.Gemma2Config(
        **common(shape, 4, 2, 12),
        sliding_window=W,
        query_pre_attn_scalar=24,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=8.0,
    )
    return model, twin(model, transformers.Gemma2ForCausalLM(config), sandwich=True)


def layer_types(depth: int) -> list[str]:
    return [{"L": "sliding_attention", "G": "full_attention"}["LLG"[i % 3]] for i in range(depth)]


def gemma3(rope_factor: float, rope_fraction: float = 1.0) -> tuple[Decoder, nn.Module]:
    transformers = pytest.importorskip("transformers")
    shape = Shape(width=32, depth=5, ffn_width=48)
    ours = Gemma3(
        heads=4,
        head_width=12,
        window=W,
        query_scale=24**-0.5,
        pattern="LLG",
        rope_factor=rope_factor,
        rope_fraction=rope_fraction,
    )
    model = randomised(ours, shape)
    scaled = {"rope_type": "linear", "factor": rope_factor} if rope_factor != 1 else {"rope_type": "default"}
    if rope_fraction != 1:
        scaled = {"rope_type": "proportional", "partial_rotary_factor": rope_fraction, "factor": rope_factor}
    config = transformers.Gemma3TextConfig(
        **common(shape, 4, 1, 12),
        sliding_window=W,
        query_pre_attn_scalar=24,
        layer_types=layer_types(5),
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {**scaled, "rope_theta": 1_000_000.0},
        },
    )
    return model, twin(model, transformers.Gemma3ForCausalLM(config), sandwich=True)


def gemma4(k_eq_v: bool) -> tuple[Decoder, nn.Module]:
    """Global heads are wider and, with K=V, fewer; a fifth layer would be local, and is made global by both codes."""
    transformers = pytest.importorskip("transformers")
    shape, kv = Shape(width=32, depth=5, ffn_width=48), 1 if k_eq_v else 2
    ours = Gemma4(
        heads=4,
        kv_heads=2,
        head_width=12,
        window=W,
        pattern="LLG",
        k_eq_v=k_eq_v,
        global_head_width=16,
        global_kv_heads=kv,
        final_softcap=8.0,
    )
    model = randomised(ours, shape)
    config = transformers.Gemma4TextConfig(
        **common(shape, 4, 2, 12),
        sliding_window=W,
        layer_types=layer_types(5),
        attention_k_eq_v=k_eq_v,
        global_head_dim=16,
        num_global_key_value_heads=kv,
        final_logit_softcapping=8.0,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=V,
    )
    return model, twin(model, transformers.Gemma4ForCausalLM(config), sandwich=True)


FAMILY = {
    "gemma1-mqa": lambda: gemma1(1),
    "gemma1-mha": lambda: gemma1(4),
    "gemma2": gemma2,
    "gemma3": lambda: gemma3(1.0),
    "gemma3-factor-8": lambda: gemma3(8.0),
    "gemma3-p-rope": lambda: gemma3(2.0, 0.75),
    "gemma4": lambda: gemma4(False),
    "gemma4-k-eq-v": lambda: gemma4(True),
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
    # the scalar of a layer is a buffer in their code: one that can be asked for a gradient all the same
    scalars = {
        name: buffer.requires_grad_()
        for name, buffer in theirs.named_buffers()
        if name.endswith("layer_scalar")
    }
    theirs_by_name = dict(theirs.named_parameters()) | scalars
    inputs, losses = tokens(21), []
    for logits in (ours(inputs), theirs(inputs).logits):
        losses.append(nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs[:, 1:].flatten()))
    sandwich = any("mixer_out_norm" in name for name, _ in ours.named_parameters())
    names = [name for name, _ in ours.named_parameters()]
    mine = torch.autograd.grad(losses[0], list(ours.parameters()))
    reference = torch.autograd.grad(
        losses[1], [theirs_by_name[their_name(n, sandwich=sandwich)] for n in names]
    )
    for name, a, b in zip(names, mine, reference, strict=True):
        # float32 rounding relative to the largest gradient of the same parameter. The scalar of the last layer stands before a
        # norm, which undoes it: its gradient is 0 but for rounding
        limit = 1e-3 * float(b.abs().max()) + (1e-6 if "scale" in name else 0)
        torch.testing.assert_close(a, b, rtol=0, atol=limit, msg=lambda m, name=name: f"{name}: {m}")


def padded(t: int, *, left: int, right: int) -> Tensor:
    """One row with ``left`` pads before its document, one with ``right`` after."""
    valid = torch.ones(2, t, dtype=torch.long)
    valid[0, :left], valid[1, t - right :] = 0, 0
    return valid


@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 6), (2 * W + 1, 1)])
@torch.no_grad()
def test_padding_on_either_side_equals_their_attention_mask(
    pair: tuple[Decoder, nn.Module], left: int, right: int
) -> None:
    ours, theirs = pair
    valid = padded(29, left=left, right=right)
    expected = theirs(tokens(29), attention_mask=valid).logits
    found = ours(tokens(29), segments=valid)
    torch.testing.assert_close(found[valid > 0], expected[valid > 0], rtol=0, atol=1e-4)


def test_gradients_with_padding_equal_theirs(pair: tuple[Decoder, nn.Module]) -> None:
    """Only the table's gradient is compared: every other one has passed through what reaches it."""
    ours, theirs = pair
    inputs, valid = tokens(21), padded(21, left=5, right=4)
    gradients = []
    for logits, table in (
        (ours(inputs, segments=valid), ours.embedding.weight),
        (theirs(inputs, attention_mask=valid).logits, theirs.get_parameter("model.embed_tokens.weight")),
    ):
        kept = (valid[:, :-1] * valid[:, 1:]) > 0
        loss = nn.functional.cross_entropy(logits[:, :-1][kept], inputs[:, 1:][kept])
        gradients.append(torch.autograd.grad(loss, table)[0])
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-3 * float(gradients[1].abs().max()))


@torch.no_grad()
def test_cached_decoding_equals_transformers_past_the_window(pair: tuple[Decoder, nn.Module]) -> None:
    ours, theirs = pair
    inputs = tokens(33)
    state, parts = ours.init_state(2), []
    for chunk in inputs.split([11, 1, 1, 13, 1, 6], dim=1):
        logits, state = ours.prefill(chunk, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), theirs(inputs).logits, rtol=0, atol=1e-4)
