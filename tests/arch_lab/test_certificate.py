"""The certificate on built models: honest ones pass, a leak is named by block and pair, the model is left alone."""

from __future__ import annotations

import pytest
import torch

from arch_lab.laws import LeakError, certify_model, require_causal
from arch_lab.models import Decoder, Shape, recipe
from blocks import Cost
from blocks.contract import ChannelMixer


def tiny(architecture: str, **options: object) -> Decoder:
    return recipe(architecture, dict(options)).model(
        Shape(width=32, depth=2, ffn_width=64), vocabulary=61, max_tokens=48
    )


@pytest.mark.parametrize("architecture", ["gemma1", "gemma2", "gemma3", "m2_gpt"])
def test_causal_architectures_pass(architecture: str) -> None:
    options = {"window": 7} if architecture in ("gemma2", "gemma3") else {}
    certificate = certify_model(tiny(architecture, **options), vocabulary=61)
    assert certificate.passed, certificate.reason
    assert certificate.leak_ratio < 1e-12


def test_a_circular_convolution_is_caught_and_named_with_its_first_pair() -> None:
    certificate = certify_model(tiny("custom", mixer="tests.leaky_blocks:CircularConvolution"), vocabulary=61)
    assert not certificate.passed
    assert certificate.leak is not None
    assert certificate.leak["t"] < certificate.leak["s"]
    assert "layers.0.mixer (CircularConvolution)" in certificate.reason


class Dead(ChannelMixer):
    """Returns zeros: perfectly causal, and useless."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0

    def cost(self, tokens: int) -> Cost:
        return Cost()

    def reset_parameters(self) -> None:
        pass


def test_a_model_that_ignores_its_input_cannot_pass() -> None:
    model = tiny("gemma1")
    model.norm = Dead()  # type: ignore[assignment]
    certificate = certify_model(model, vocabulary=61)
    assert not certificate.passed


def test_certifying_changes_neither_the_model_nor_the_random_stream() -> None:
    model = tiny("m2_gpt")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    certify_model(model, vocabulary=61)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_leak_ends_in_one_line_with_block_positions_length_and_mode() -> None:
    model = tiny("custom", mixer="tests.leaky_blocks:CircularConvolution")
    with pytest.raises(
        LeakError, match=r"layers.0.mixer \(CircularConvolution\).*t=\d+, s=\d+; \d+ tokens, evaluation mode"
    ) as error:
        require_causal(model, vocabulary=61, lengths=[48], training_length=40, name="arm 'mine'")
    assert "arm 'mine'" in str(error.value) and "\n" not in str(error.value)


def test_the_lengths_that_train_and_score_are_probed_in_both_modes() -> None:
    certificate = require_causal(tiny("gemma1"), vocabulary=61, lengths=[48], training_length=40)
    assert {40, 48, 39, 47, 32, 16} <= set(certificate.lengths)
    assert certificate.modes == ("evaluation", "training")
    assert set(certificate.positions) == {str(n) for n in certificate.lengths}
