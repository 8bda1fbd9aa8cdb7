"""Where tokens stand and how far a model goes: packed documents, explicit positions, holes in a mask, ``max_tokens``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from arch_lab.models import Decoder, Shape, recipe
from blocks.dispatch import use_implementation
from blocks.errors import ConfigError

V, SHAPE = 61, Shape(width=32, depth=2, ffn_width=32)
GEMMAS: dict[str, dict[str, Any]] = {
    "gemma1": {},
    "gemma2": {"window": 8},
    "gemma3": {"window": 8, "pattern": "LG"},
    "gemma4": {"window": 8, "pattern": "LG"},
}
DECODERS = {**GEMMAS, "m2_gpt": {}, "custom": {"mixer": "gated_long_conv"}, "hybrid": {}}


def model(name: str, *, max_tokens: int = 24, dtype: torch.dtype = torch.float64) -> Decoder:
    """Gains and matrices of order one, so that attention is sharp and a wrong angle shows."""
    built = recipe(name, DECODERS[name]).model(SHAPE, vocabulary=V, max_tokens=max_tokens)
    with torch.no_grad():
        for label, parameter in built.named_parameters():
            if "norm" in label:
                parameter.add_(torch.rand_like(parameter))
    return built.to(dtype).eval()


def tokens(t: int, batch: int = 1) -> Tensor:
    return torch.randint(V, (batch, t), generator=torch.Generator().manual_seed(t))


def last_document(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """A document of 20 tokens: at the end of a row of 8192, alone, and alone in float64."""
    built = model(name, max_tokens=8192, dtype=torch.float32)
    for layer in built.layers:
        layer.mixer.softcap = None  # long rows take the cap from a sigmoid, which rounds scores to 3e-6
    row, size = tokens(8192), 20
    segments = torch.where(torch.arange(8192) < 8192 - size, 1, 2)[None]
    packed, alone = built.hidden(row, segments)[:, -size:], built.hidden(row[:, -size:])
    return packed, alone, built.double().hidden(row[:, -size:])


@pytest.mark.parametrize("name", GEMMAS)
@torch.no_grad()
def test_a_document_at_the_end_of_8192_tokens_equals_the_document_alone(name: str) -> None:
    """Angles counted through the row lose bits with the offset: the gap was 2.6e-4 then."""
    with use_implementation("reference"):  # rows of both lengths take the same operations
        packed, alone, _ = last_document(name)
    torch.testing.assert_close(packed, alone, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", GEMMAS)
@torch.no_grad()
def test_a_document_at_the_end_is_as_exact_as_the_document_alone(name: str) -> None:
    """Fast operations choose their order by the length of the row, so the two differ by a rounding of either."""
    packed, alone, exact = last_document(name)
    errors = [(values - exact).abs() for values in (packed, alone)]
    assert errors[0].max() <= 2 * errors[1].max() + 5e-6
    assert errors[0].mean() <= 1.5 * errors[1].mean()


@pytest.mark.parametrize("name", GEMMAS)
@torch.no_grad()
def test_positions_counted_from_zero_are_the_default(name: str) -> None:
    built, row = model(name), tokens(21, batch=2)
    places = torch.arange(21).expand(2, -1)
    assert torch.equal(built(row, positions=places), built(row))


@pytest.mark.parametrize("name", GEMMAS)
@torch.no_grad()
def test_only_differences_of_positions_matter(name: str) -> None:
    built, row = model(name), tokens(21)
    places = torch.arange(21)[None]
    torch.testing.assert_close(built(row, positions=places + 1000), built(row), rtol=0, atol=1e-9)
    assert (built(row, positions=2 * places) - built(row)).abs().max() > 1e-3


@torch.no_grad()
def test_positions_equal_position_ids_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from arch_lab.checkpoints.interop.gemma import their_name

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "head_dim": 32,
    }
    layers = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(
        **sizes,
        vocab_size=V,
        num_key_value_heads=1,
        query_pre_attn_scalar=32,
        sliding_window=8,
        layer_types=layers,
        attn_implementation="eager",
    )
    ours, theirs = model("gemma3"), transformers.Gemma3ForCausalLM(config).double().eval()
    renamed = {their_name(name, sandwich=True): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(renamed, strict=False)
    theirs.tie_weights()
    places = torch.randint(0, 4, (1, 21)).cumsum(1)
    expected = theirs(tokens(21), position_ids=places).logits
    torch.testing.assert_close(
        ours(tokens(21), positions=places), expected, rtol=0, atol=1e-5
    )  # their angles are float32


@pytest.mark.parametrize("name", ["m2_gpt", "hybrid"])
def test_a_mixer_without_positions_refuses_them(name: str) -> None:
    with pytest.raises(ConfigError, match="takes no positions"):
        model(name)(tokens(5), positions=torch.arange(5)[None])


@pytest.mark.parametrize("places", [torch.arange(5), torch.arange(4)[None], torch.arange(5.0)[None]])
def test_positions_of_another_shape_or_type_are_refused(places: Tensor) -> None:
    with pytest.raises(ConfigError, match="positions must be integers of shape"):
        model("gemma3")(tokens(5), positions=places)


# --- holes ------------------------------------------------------------------------------------------------------------

HOLE = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 1]])


@pytest.mark.parametrize("name", DECODERS)
def test_a_hole_in_an_attention_mask_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"row 1 has padding inside document 1 \(before token 3\)"):
        model(name)(tokens(5, batch=2), HOLE)


@pytest.mark.parametrize("name", ["m2_bert", "gemma_encoder"])
def test_an_encoder_refuses_a_hole(name: str) -> None:
    built = recipe(name).model(Shape(width=64, depth=1, ffn_width=64), vocabulary=V, max_tokens=24)
    with pytest.raises(ConfigError, match="padding inside document 1"):
        built(tokens(5, batch=2), HOLE)


def test_padding_between_documents_of_other_ids_is_no_hole() -> None:
    built = model("gemma3")
    segments = torch.tensor([[0, 1, 1, 0, 2, 2, 1, 1, 0]])
    with torch.no_grad():
        packed = built(tokens(9), segments)
        torch.testing.assert_close(packed[:, 4:6], built(tokens(9)[:, 4:6]), rtol=0, atol=1e-12)


# --- max_tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_prefill_and_step_refuse_a_token_beyond_max_tokens(name: str) -> None:
    built = model(name)
    with pytest.raises(ConfigError, match="25"):
        built.prefill(tokens(25), built.init_state(1))
    _, state = built.prefill(tokens(23), built.init_state(1))
    _, state = built.step(tokens(1)[0], state)
    with pytest.raises(ConfigError, match="25"):
        built.step(tokens(1)[0], state)


@pytest.mark.parametrize("name", ["t5gemma", "t5gemma2"])
@torch.no_grad()
def test_an_encoder_decoder_refuses_a_target_beyond_max_tokens(name: str) -> None:
    built = recipe(name).model(SHAPE, vocabulary=V, max_tokens=12)
    with pytest.raises(ConfigError, match="sequence of 13 tokens exceeds max_tokens 12"):
        built.prefill(tokens(13), built.init_state(tokens(3)))
    _, state = built.prefill(tokens(12), built.init_state(tokens(3)))
    with pytest.raises(ConfigError, match="sequence of 13 tokens exceeds max_tokens 12"):
        built.step(tokens(1)[0], state)
