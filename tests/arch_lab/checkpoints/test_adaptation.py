"""Adaptation keeps the function it should keep: what a decoder was is still there when its mask, or its memory, is taken away."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from arch_lab.checkpoints.adaptation import Reverse, bidirectional, causal, initialise
from arch_lab.checkpoints.adaptation.t5gemma import CROSS
from arch_lab.laws.probe import redraw
from arch_lab.models import Decoder, EncoderDecoder, Shape, recipe
from arch_lab.models.cross_layer import CrossLayer
from blocks.convolution.mixer import M2Mixer
from blocks.errors import ConfigError

VOCABULARY, TOKENS, SHAPE = 23, 14, Shape(width=32, depth=3, ffn_width=32)
ATTENTION: dict[str, dict[str, Any]] = {
    "gemma1": {},
    "gemma2": {"window": 5},
    "gemma3": {"window": 5, "pattern": "LG"},
}
M2: dict[str, Any] = {"filter_order": 8, "residual_long_conv": True}
REVERSES: tuple[Reverse, ...] = ("zeros", "copy")


@cache
def decoder(name: str, width: int = 32) -> Decoder:
    """Float64, every parameter of order one."""
    shape = Shape(width=width, depth=3, ffn_width=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = (
            recipe(name, M2 if name == "m2_gpt" else ATTENTION[name])
            .model(shape, vocabulary=VOCABULARY, max_tokens=40)
            .double()
        )
        redraw(model)
    return model


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, (2, TOKENS), generator=torch.Generator().manual_seed(seed))


def encoder(name: str) -> Decoder:
    return bidirectional(decoder(name), radius=4, reverse="copy" if name == "m2_gpt" else None)


@pytest.mark.parametrize("name", [*ATTENTION, "m2_gpt"])
@torch.no_grad()
def test_with_the_causal_flag_back_on_the_encoder_is_the_decoder_bit_for_bit(name: str) -> None:
    back = causal(encoder(name), window=5)
    assert back.config == decoder(name).config and back.causal
    assert torch.equal(back.hidden(tokens()), decoder(name).hidden(tokens()))


@pytest.mark.parametrize("name", [*ATTENTION, "m2_gpt"])
@torch.no_grad()
def test_the_first_state_of_the_encoder_depends_on_the_last_token(name: str) -> None:
    """Three layers, of which at least one is global: the end reaches the start, which in the decoder it never does."""
    changed = tokens()
    changed[:, -1] = (changed[:, -1] + 1) % VOCABULARY
    for model, moved in ((encoder(name), True), (decoder(name), False)):
        difference = (model.hidden(changed) - model.hidden(tokens())).abs()[:, 0].amax()
        assert (difference > 1e-6) if moved else (difference < 1e-12)


@torch.no_grad()
def test_adaptation_copies_and_leaves_the_decoder_alone() -> None:
    before = decoder("gemma2").hidden(tokens())
    for parameter in encoder("gemma2").parameters():
        parameter.zero_()
    assert torch.equal(decoder("gemma2").hidden(tokens()), before)


def test_adaptation_draws_nothing() -> None:
    before = torch.random.get_rng_state()
    encoder("gemma3")
    assert torch.equal(torch.random.get_rng_state(), before)


# --- the kernels of the M2 mixer ----------------------------------------------------------------------------------


def m2(reverse: Reverse) -> tuple[M2Mixer, M2Mixer]:
    """The first mixer of the causal model and of its bidirectional form."""
    mixers = (
        decoder("m2_gpt").layers[0].mixer,
        bidirectional(decoder("m2_gpt"), reverse=reverse).layers[0].mixer,
    )
    assert isinstance(mixers[0], M2Mixer) and isinstance(mixers[1], M2Mixer)
    return mixers


@torch.no_grad()
def test_a_reverse_kernel_of_zeros_keeps_the_function() -> None:
    """Up to rounding: another transform does the work. A bidirectional transform of a causal kernel is the causal convolution."""
    y = decoder("m2_gpt").hidden(tokens())
    found = bidirectional(decoder("m2_gpt"), reverse="zeros").hidden(tokens())
    torch.testing.assert_close(found, y, rtol=0, atol=1e-10 * float(y.abs().max()))


@pytest.mark.parametrize("reverse", REVERSES)
@torch.no_grad()
def test_the_forward_kernel_is_kept_tap_for_tap(reverse: Reverse) -> None:
    before, after = m2(reverse)
    assert torch.equal(after.long.taps(TOKENS), before.long.taps(TOKENS))
    assert before.residual is not None and after.residual is not None
    assert torch.equal(after.residual.taps(TOKENS), before.residual.taps(TOKENS))


@torch.no_grad()
def test_the_reverse_kernel_is_the_forward_one_or_nothing() -> None:
    for convolution in ("long", "residual"):
        forward = getattr(m2("copy")[1], convolution).filter
        assert torch.equal(forward(TOKENS, reverse=True), forward(TOKENS))
        assert not getattr(m2("zeros")[1], convolution).filter(TOKENS, reverse=True).any()


def test_a_reverse_kernel_of_zeros_can_learn() -> None:
    model = bidirectional(decoder("m2_gpt"), reverse="zeros")
    model.hidden(tokens()).square().mean().backward()
    reverse = [p for n, p in model.named_parameters() if ".long.filter.behind.3." in n]
    assert len(reverse) == 3 and all(p.grad is not None and p.grad.abs().max() > 0 for p in reverse)


# --- T5Gemma's initialisation -------------------------------------------------------------------------------------


def encoder_decoder(name: str, **options: Any) -> EncoderDecoder:
    local = {"encoder_radius": 4} if name == "t5gemma" else {"encoder_span": 6, "pattern": "LG"}
    made = recipe(name, {"window": 5, **local, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return made.model(SHAPE, vocabulary=VOCABULARY, max_tokens=40).double()


@torch.no_grad()
def test_without_the_output_of_its_cross_attention_the_model_is_the_decoder_it_came_from() -> None:
    model = encoder_decoder("t5gemma")
    initialise(model, encoder_from=decoder("gemma2"), decoder_from=decoder("gemma2"))
    assert not torch.equal(model(tokens(1), tokens()), decoder("gemma2")(tokens()))
    for layer in model.decoder.layers:
        assert isinstance(layer, CrossLayer)
        layer.cross.out.weight.zero_()  # type: ignore[union-attr, operator]
    assert torch.equal(model(tokens(1), tokens()), decoder("gemma2")(tokens()))


@pytest.mark.parametrize(("name", "source"), [("t5gemma", "gemma2"), ("t5gemma2", "gemma3")])
@torch.no_grad()
def test_the_encoder_is_the_decoder_looking_both_ways(name: str, source: str) -> None:
    model = encoder_decoder(name)
    initialise(model, encoder_from=decoder(source), decoder_from=decoder(source))
    radius = 4 if name == "t5gemma" else (2, 3)
    assert torch.equal(model.encode(tokens()), bidirectional(decoder(source), radius=radius).hidden(tokens()))


@pytest.mark.parametrize(("name", "source"), [("t5gemma", "gemma2"), ("t5gemma2", "gemma3")])
@torch.no_grad()
def test_an_initialised_decoder_never_sees_its_future_and_sees_the_whole_source(
    name: str, source: str
) -> None:
    model = encoder_decoder(name)
    initialise(model, encoder_from=decoder(source), decoder_from=decoder(source))
    y, later, other = model(tokens(1), tokens()), tokens(), tokens(1)
    later[:, 6:] = (later[:, 6:] + 1) % VOCABULARY
    other[:, -1] = (other[:, -1] + 1) % VOCABULARY
    moved = (model(tokens(1), later) - y).abs().amax(dim=(0, 2))
    assert not moved[:6].any() and (moved[6:] > 0).all()
    assert ((model(other, tokens()) - y).abs().amax(dim=-1) > 0).all()


def test_equal_widths_leave_nothing_drawn_and_cross_attention_starts_as_self_attention() -> None:
    for name, source in (("t5gemma", "gemma2"), ("t5gemma2", "gemma3")):
        model = encoder_decoder(name)
        done = initialise(model, encoder_from=decoder(source), decoder_from=decoder(source))
        assert done.untrained == () and set(done.copied) == {n for n, _ in model.named_parameters()}
        for layer in (layer for layer in model.decoder.layers if isinstance(layer, CrossLayer)):
            for cross, own in CROSS.items():
                theirs = getattr(layer, own).state_dict()
                assert all(
                    torch.equal(value, theirs[n]) for n, value in getattr(layer, cross).state_dict().items()
                )


def test_an_encoder_of_another_width_leaves_the_cross_attention_drawn_and_says_so() -> None:
    model = encoder_decoder("t5gemma", encoder={"width": 64, "depth": 3, "ffn_width": 32})
    before = {n: p.clone() for n, p in model.named_parameters()}
    done = initialise(model, encoder_from=decoder("gemma2", 64), decoder_from=decoder("gemma2"))
    assert {n.split(".")[3] for n in done.untrained} == {"cross_norm", "cross", "cross_out_norm"}
    after = dict(model.named_parameters())
    assert all(torch.equal(after[n], before[n]) for n in done.untrained)
    assert all(not torch.equal(after[n], before[n]) for n in done.copied)
    assert len(done.untrained) == 3 * 6


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gemma2", {}, "needs a radius"),
        ("m2_gpt", {}, "layer 0: an M2 mixer needs a reverse kernel; choose reverse 'zeros'"),
    ],
)
def test_what_the_switch_needs_must_be_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        bidirectional(decoder(name), **options)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_other_layers_is_refused_before_anything_is_filled() -> None:
    model = encoder_decoder("t5gemma", attention_softcap=7.0)
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(
        ConfigError,
        match=r"^initialise: encoder layer 0\.mixer\.softcap: the model has 7\.0, the checkpoint 50\.0$",
    ):
        initialise(model, encoder_from=decoder("gemma2"), decoder_from=decoder("gemma2"))
    with pytest.raises(
        ConfigError, match=r"^initialise: encoder layer 0\.mixer\.width: the model has 32, the checkpoint 64$"
    ):
        initialise(
            encoder_decoder("t5gemma"), encoder_from=decoder("gemma2", 64), decoder_from=decoder("gemma2")
        )
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
