"""What holds for models of every kind: one way to build them, one list of parts, one word for what they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from arch_lab.models import Model, ModelConfig, Shape, architectures, recipe, require_kind
from blocks.errors import ConfigError

OPTIONS: dict[str, dict[str, Any]] = {
    "custom": {"mixer": "gated_long_conv"},
    "custom_encoder": {"mixer": "m2_mixer"},
    "vit": {"image": [8, 12], "channels": 1, "patch": 4, "head_width": 8},
    "m2_vit": {"image": [8, 12], "channels": 1, "patch": 4},
}
TOKENS = 6  # patches of such an image


def config_of(name: str) -> ModelConfig:
    shape = Shape(width=32, depth=2, ffn_width=32)
    return recipe(name, OPTIONS.get(name)).config(shape, vocabulary=61, max_tokens=TOKENS)


def seeded(name: str) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return config_of(name).build()


@pytest.mark.parametrize("name", architectures())
def test_recipe_config_and_model_name_the_same_kind(name: str) -> None:
    config = config_of(name)
    assert recipe(name, OPTIONS.get(name)).kind == config.kind == config.build("meta").kind


@pytest.mark.parametrize("name", architectures())
def test_a_model_without_memory_has_the_tensors_of_the_real_one(name: str) -> None:
    model, twin = seeded(name), config_of(name).build("meta")
    assert all(value.device.type == "meta" for value in twin.parameters())
    assert [(n, v.shape) for n, v in model.state_dict().items()] == [
        (n, v.shape) for n, v in twin.state_dict().items()
    ]


@pytest.mark.parametrize("name", architectures())
def test_parts_add_up_to_parameters_and_cost(name: str) -> None:
    model = config_of(name).build("meta")
    parts, counts = model.components(TOKENS), model.parameter_counts()
    assert (
        sum(part.parameters for part in parts)
        == counts["total"]
        == sum(p.numel() for p in model.parameters())
    )
    assert sum(part.cost.forward(3) for part in parts) == model.cost(TOKENS).forward(3)


@pytest.mark.parametrize("name", architectures())
def test_a_named_device_changes_nothing_of_what_is_drawn(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        named = config_of(name).build("cpu")
    for key, value in seeded(name).state_dict().items():
        assert torch.equal(named.state_dict()[key], value), key


@pytest.mark.parametrize("name", architectures("encoder") + architectures("image_classifier"))
def test_a_model_that_does_not_decode_keeps_no_state(name: str) -> None:
    assert config_of(name).build("meta").state_bytes(TOKENS) == 0


@pytest.mark.parametrize("name", architectures("encoder"))
def test_states_of_an_encoder_do_not_need_its_head(name: str) -> None:
    model, tokens = seeded(name).eval(), torch.arange(TOKENS)[None]
    before = model.hidden(tokens)
    model.drop_head()
    model.hidden(tokens).sum().backward()
    assert torch.equal(model.hidden(tokens), before)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("m2_bert", "decoder", "'m2_bert' is a bidirectional encoder: .*; choose a decoder: custom, gemma1"),
        (
            "t5gemma",
            "encoder",
            "'t5gemma' is an encoder–decoder: .* it fills in; choose an encoder: custom_encoder, ",
        ),
        ("gemma1", "encoder", "'gemma1' is a causal decoder: .*; choose an encoder: custom_encoder, "),
        (
            "m2_gpt",
            "image_classifier",
            "'m2_gpt' reads tokens of text, not pixels; choose an image classifier: m2_vit, ",
        ),
    ],
)
def test_another_kind_is_an_error_with_the_names_to_choose_from(name: str, kind: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^arm: architecture {message}"):
        require_kind(recipe(name, OPTIONS.get(name)), kind, "arm: ")
