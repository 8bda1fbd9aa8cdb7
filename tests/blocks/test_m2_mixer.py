"""The convolution sequence mixers: equal to the released code, causal, isolated, decodable, counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m2_goldens import close, golden, group, load, mixer_name
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from blocks.contract import SequenceMixer, tensors_nbytes
from blocks.convolution.direct import causal_convolution_direct
from blocks.convolution.gated import GatedLongConvConfig
from blocks.convolution.mixer import M2Mixer, M2MixerConfig
from blocks.dispatch import VARIABLE
from blocks.errors import ConfigError

WIDTH, LONGEST = 6, 40
CAUSAL = {
    "m2_mixer": M2MixerConfig(width=WIDTH, max_tokens=LONGEST, filter_order=8),
    "m2_mixer residual": M2MixerConfig(
        width=WIDTH, max_tokens=LONGEST, filter_order=8, residual_long_conv=True
    ),
    "gated_long_conv": GatedLongConvConfig(width=WIDTH, max_tokens=LONGEST, filter_order=8),
}
ALL = CAUSAL | {
    "bidirectional": M2MixerConfig(
        width=WIDTH, max_tokens=LONGEST, filter_order=8, causal=False, residual_long_conv=True
    ),
}
causal_names, all_names = st.sampled_from(sorted(CAUSAL)), st.sampled_from(sorted(ALL))
lengths = st.integers(2, LONGEST)


def build(name: str) -> SequenceMixer:
    """Float64, with every parameter non-zero, biases too: a pad must have something to leak."""
    mixer: Any = ALL[name].build().double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def released(name: str) -> tuple[dict[str, Tensor], M2Mixer]:
    g = golden(f"seqmixer_{name}_f64")
    config = M2MixerConfig(width=16, max_tokens=32, filter_order=8, causal=name == "causal", start="released")
    mixer = M2Mixer(config).double()
    mapped = {mixer_name(key): value for key, value in group(g, "param.").items()}
    load(mixer, {key: value for key, value in mapped.items() if key is not None})
    return g, mixer


@pytest.mark.parametrize("name", ["causal", "bidir"])
def test_outputs_and_every_gradient_equal_the_released_mixer(name: str) -> None:
    g, mixer = released(name)
    x = g["in.u"].requires_grad_()
    y = mixer(x)
    close(y, g["out.y"])
    y.backward(g["in.grad_out"])
    expected = {mixer_name(key): value for key, value in group(g, "grad.").items() if key != "u"}
    parameters = dict(mixer.named_parameters())
    assert set(expected) == set(parameters)
    close(x.grad, g["grad.u"])  # type: ignore[arg-type]
    for key, parameter in parameters.items():
        close(parameter.grad.flatten(), expected[key].flatten())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["causal", "bidir"])
def test_a_shorter_sequence_uses_the_same_kernels_as_released(name: str) -> None:
    g, mixer = released(name)
    close(mixer(g["in.u_L20"]), g["out.y_L20"])


@pytest.mark.parametrize("name", ["causal", "bidir"])
def test_single_precision_stays_close_to_the_released_mixer(name: str) -> None:
    g, mixer = released(name)
    close(mixer.float()(g["in.u"].float()), g["out.y"], 1e-4)


def test_the_residual_convolution_reads_the_unprojected_input() -> None:
    mixer = build("m2_mixer residual")
    assert isinstance(mixer, M2Mixer) and mixer.residual is not None
    x = randn(2, 11, WIDTH)
    plain = M2Mixer(M2MixerConfig(width=WIDTH, max_tokens=LONGEST, filter_order=8)).double()
    plain.load_state_dict({k: v for k, v in mixer.state_dict().items() if not k.startswith("residual.")})
    extra = causal_convolution_direct(x.mT, mixer.residual.taps(11)).mT
    close(mixer(x), plain(x) + extra @ mixer.out_linear.weight.mT, 1e-12)


@settings(deadline=None, max_examples=25)
@given(name=causal_names, tokens=lengths, data=st.data(), last_only=st.booleans())
def test_the_future_never_reaches_the_past(
    name: str, tokens: int, data: st.DataObject, last_only: bool
) -> None:
    mixer, x = build(name), randn(2, tokens, WIDTH)
    cut = tokens - 1 if last_only else data.draw(st.integers(1, tokens - 1), label="cut")
    changed = x.clone()
    changed[:, cut:] = randn(2, tokens - cut, WIDTH)
    a, b = mixer(x), mixer(changed)
    close(a[:, :cut], b[:, :cut], 1e-12)
    assert not torch.allclose(a[:, cut:], b[:, cut:])


@settings(deadline=None, max_examples=20)
@given(name=causal_names, tokens=lengths, data=st.data())
def test_a_prefix_gives_the_prefix_of_the_output(name: str, tokens: int, data: st.DataObject) -> None:
    mixer, x = build(name), randn(2, tokens, WIDTH)
    cut = data.draw(st.integers(1, tokens - 1), label="cut")
    close(mixer(x[:, :cut]), mixer(x)[:, :cut], 1e-12)


@settings(deadline=None, max_examples=25)
@given(name=causal_names, chunks=st.lists(st.integers(1, 9), min_size=1, max_size=5), by_step=st.booleans())
def test_decoding_in_any_chunks_equals_the_forward_and_holds_what_it_says(
    name: str, chunks: list[int], by_step: bool
) -> None:
    tokens = min(sum(chunks), LONGEST)
    mixer, x = build(name), randn(3, tokens, WIDTH)
    state, outputs, t = mixer.init_state(3, LONGEST), [], 0
    assert tensors_nbytes(state) == mixer.state_bytes(0) == 0
    for size in [1] * tokens if by_step else chunks:
        part = x[:, t : t + size]
        if part.shape[1] == 0:
            break
        if by_step:
            y, state = mixer.step(part[:, 0], state)
            y = y[:, None]
        else:
            y, state = mixer.prefill(part, state)
        outputs.append(y)
        t += part.shape[1]
        assert tensors_nbytes(state) == 3 * mixer.state_bytes(t)
    close(torch.cat(outputs, dim=1), mixer(x), 1e-12)


@settings(deadline=None, max_examples=25)
@given(
    name=all_names,
    documents=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    left=st.integers(0, 3),
    right=st.integers(0, 3),
)
def test_packed_documents_and_padding_never_meet(
    name: str, documents: list[int], left: int, right: int
) -> None:
    mixer = build(name)
    parts = [randn(1, size, WIDTH) for size in documents]
    pads = [torch.full((1, size, WIDTH), 50.0, dtype=torch.float64) for size in (left, right)]
    x = torch.cat([pads[0], *parts, pads[1]], dim=1)
    ids = [0] * left + [i + 1 for i, size in enumerate(documents) for _ in range(size)] + [0] * right
    y = mixer(x, torch.tensor([ids]))
    alone = torch.cat([mixer(part) for part in parts], dim=1)
    close(y[:, left : len(ids) - right], alone, 1e-12)
    assert not y[:, :left].any() and not y[:, len(ids) - right :].any()


def test_a_batch_of_padding_alone_gives_zeros_and_gradients() -> None:
    mixer, x = build("m2_mixer"), randn(2, 5, WIDTH).requires_grad_()
    y = mixer(x, torch.zeros(2, 5, dtype=torch.long))
    assert not y.any()
    y.sum().backward()


@settings(deadline=None, max_examples=15)
@given(name=all_names, tokens=lengths)
def test_rows_of_a_batch_do_not_meet(name: str, tokens: int) -> None:
    mixer, x = build(name), randn(3, tokens, WIDTH)
    close(mixer(x), torch.cat([mixer(row[None]) for row in x]), 1e-12)


@settings(deadline=None, max_examples=15)
@given(name=all_names, batch=st.integers(1, 3), tokens=lengths)
def test_cost_is_what_a_counted_forward_executes(name: str, batch: int, tokens: int) -> None:
    mixer: Any = (
        ALL[name].build().to("meta")
    )  # where every convolution is counted as a transform, whatever a CPU would run
    with FlopCounterMode(display=False) as counter:
        mixer(torch.zeros(batch, tokens, WIDTH, device="meta"))
    assert mixer.cost(tokens).forward(batch) == counter.get_total_flops()


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("tokens", [32, 1024])
def test_outputs_start_on_the_order_of_their_input_at_every_length(name: str, tokens: int) -> None:
    torch.manual_seed(0)
    config = type(ALL[name]).from_options({**vars(ALL[name]), "width": 64, "max_tokens": tokens})
    y = config.build()(torch.randn(2, tokens, 64))  # type: ignore[operator]
    assert 0.1 < y.std() < 3


@pytest.mark.parametrize("start", ["balanced", "released"])
def test_gates_start_open_unless_asked_otherwise(start: Any) -> None:
    mixer = M2Mixer(M2MixerConfig(width=8, max_tokens=4, start=start))
    before, after, value = mixer.short.bias.chunk(3)
    opened = bool((before == 1).all() and (after == 1).all() and (value == 0).all())
    assert opened == (start == "balanced")


def test_a_bidirectional_mixer_refuses_to_decode() -> None:
    with pytest.raises(ConfigError, match="bidirectional"):
        build("bidirectional").init_state(1, 4)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_sequence_beyond_max_tokens_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="exceed max_tokens = 40"):
        build(name)(randn(1, LONGEST + 1, WIDTH))


def test_decoding_beyond_the_state_is_refused() -> None:
    mixer = build("m2_mixer")
    with pytest.raises(ConfigError, match="made for"):
        mixer.prefill(randn(1, 5, WIDTH), mixer.init_state(1, 4))


@pytest.mark.parametrize("options", [{"filter_emb": 4}, {"width": 0}, {"max_tokens": 0}, {"filter_order": 0}])
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        M2MixerConfig(**{"width": 4, "max_tokens": 8, **options})


@pytest.mark.slow
def test_compiled_and_eager_agree_in_every_gradient() -> None:
    mixer, x = build("m2_mixer residual"), randn(2, 17, WIDTH).requires_grad_()
    inputs = [x, *mixer.parameters()]
    eager = torch.autograd.grad(mixer(x).square().sum(), inputs)
    compiled = torch.autograd.grad(torch.compile(mixer, fullgraph=True)(x).square().sum(), inputs)
    for a, b in zip(compiled, eager, strict=True):
        close(a, b, 1e-12)


def test_a_state_dict_rebuilds_the_same_function() -> None:
    for name in ALL:
        mixer, twin, x = build(name), build(name), randn(2, 9, WIDTH)
        twin.load_state_dict(mixer.state_dict())
        assert torch.equal(mixer(x), twin(x))


@pytest.mark.parametrize("mode", ["autocast", "bfloat16 parameters"])
def test_half_precision_stays_near_single(mode: str) -> None:
    mixer: Any = CAUSAL["m2_mixer residual"].build()
    x = torch.randn(2, 33, WIDTH)
    if mode == "autocast":
        wide = mixer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            narrow = mixer(x)
    else:
        # rounded weights are another model (its filter's phase moves by 10 %); what is tested is the arithmetic on them
        narrow = mixer.bfloat16()(x.bfloat16())
        wide = mixer.float()(x.bfloat16().float())
    # six roundings to 8 bits lie on the way from input to output: 6 · 2^-9 if all errors added up, doubled for the gates
    assert (narrow.float() - wide).norm() < 12 * 2**-9 * wide.norm()


@pytest.mark.parametrize("tokens", [8, LONGEST])
def test_the_operator_that_counters_see_computes_what_a_plain_step_does(
    monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    mixer, x = build("m2_mixer"), randn(2, tokens, WIDTH)

    def gradients() -> list[Tensor]:
        mixer.zero_grad()
        mixer(x).square().sum().backward()
        return [p.grad for p in mixer.parameters() if p.grad is not None]

    plain = gradients()
    with FlopCounterMode(display=False) as counter:
        counted = gradients()
    assert counter.get_flop_counts()["Global"][torch.ops.blocks.causal_conv] > 0
    for a, b in zip(plain, counted, strict=True):
        assert torch.equal(a, b)
