"""The released M2-BERT as an architecture: an encoder that padding does not reach, and that no perplexity can come from."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

import arch_lab
from arch_lab.laws import certify_model
from arch_lab.models import Encoder, Kind, Shape, architectures, recipe, require_kind
from arch_lab.training.module import LanguageModel
from blocks.errors import ConfigError
from tests.small_study import small_study

SHAPE, VOCABULARY, TOKENS = Shape(width=32, depth=2, ffn_width=64), 61, 24


@pytest.fixture()
def model() -> Encoder:
    """With the released start: kernels that begin at zero would hide what passes through them."""
    options = {"start": "released"}
    return recipe("m2_bert", options).model(SHAPE, vocabulary=VOCABULARY, max_tokens=TOKENS).double()


def test_every_position_gets_logits_over_the_vocabulary(model: Encoder) -> None:
    logits = model(torch.randint(VOCABULARY, (3, 17)))
    assert logits.shape == (3, 17, VOCABULARY)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("before", "after"), [(0, 7), (5, 0), (4, 3)])
def test_padding_on_either_side_changes_no_output(model: Encoder, before: int, after: int) -> None:
    """The released code lets pads into every convolution; logits there move by up to 1.05."""
    words = torch.randint(VOCABULARY, (1, 11))
    pads = torch.randint(VOCABULARY, (1, before)), torch.randint(VOCABULARY, (1, after))
    row = torch.cat([pads[0], words, pads[1]], dim=1)
    segments = torch.cat([torch.zeros(1, before), torch.ones(1, 11), torch.zeros(1, after)], dim=1).long()
    found = model(row, segments)[:, before : before + 11]
    torch.testing.assert_close(found, model(words), rtol=1e-10, atol=1e-10)


def test_documents_packed_in_a_row_never_meet(model: Encoder) -> None:
    first, second = torch.randint(VOCABULARY, (1, 9)), torch.randint(VOCABULARY, (1, 8))
    packed = model(torch.cat([first, second], dim=1), torch.tensor([[1] * 9 + [2] * 8]))
    torch.testing.assert_close(
        packed, torch.cat([model(first), model(second)], dim=1), rtol=1e-10, atol=1e-10
    )


def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(model: Encoder) -> None:
    model(
        torch.randint(VOCABULARY, (2, TOKENS)), types=torch.randint(2, (2, TOKENS))
    ).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (
            parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0
        ), name


def test_no_two_layers_start_from_the_same_numbers(model: Encoder) -> None:
    """The released code copies one layer, so that all start identical."""
    one, two = (dict(layer.named_parameters()) for layer in model.layers)
    same = [name for name in one if torch.equal(one[name], two[name])]
    assert all(
        "positions" in n or "frequency" in n or n.startswith("norm") or n.endswith("linear.bias")
        for n in same
    )


def test_it_is_listed_apart_from_the_decoders() -> None:
    assert "m2_bert" in architectures("encoder")
    assert "m2_bert" not in architectures("decoder")
    kinds = get_args(Kind)
    assert sorted(architectures()) == sorted(name for kind in kinds for name in architectures(kind))


def test_a_decoder_of_it_is_refused_in_one_line_wherever_it_is_asked_for() -> None:
    for ask in (
        lambda: require_kind(recipe("m2_bert"), "decoder"),
        lambda: LanguageModel(architecture="m2_bert"),
    ):
        with pytest.raises(
            ConfigError, match=r"'m2_bert' is a bidirectional encoder.*choose a decoder.*gemma3"
        ) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_perplexity_study_refuses_it_by_the_name_of_the_arm(tmp_path: Path) -> None:
    path = small_study(
        tmp_path, arms=[{"architecture": "gemma3"}, {"name": "encoder", "architecture": "m2_bert"}]
    )
    with pytest.raises(ConfigError, match=r"experiment 'perplexity', arm 'encoder': .*bidirectional encoder"):
        arch_lab.plan(str(path))


def test_the_certificate_of_the_model_itself_names_the_mixer(model: Encoder) -> None:
    certificate = certify_model(model, vocabulary=VOCABULARY)  # type: ignore[arg-type]
    assert not certificate.passed
    assert "layers.0.mixer (M2Mixer) is not causal" in certificate.reason
