"""M2 mixers with parts removed or with a bounded kernel: equal to their definition, decodable, isolated, counted.

Legend: D width, B batch, T tokens, n lags of a bounded kernel.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from arch_lab.accounting.counter import count_forward
from arch_lab.models import on_meta
from blocks.contract import tensors_nbytes
from blocks.convolution.bounded import BoundedConvolution, BoundedState
from blocks.convolution.direct import bidirectional_convolution_direct, causal_convolution_direct
from blocks.convolution.long import LongConvolution
from blocks.convolution.mixer import PARTS, M2Mixer, M2MixerConfig
from blocks.dispatch import use_implementation
from blocks.errors import ConfigError
from blocks.monarch.polynomial_mixer import MonarchPolynomialConfig

WIDTH, LONGEST = 6, 40
lengths = st.integers(1, LONGEST)


@st.composite
def configs(draw: st.DrawFn, causal: bool | None = None) -> M2MixerConfig:
    """Any parts removed, any bound, with and without the residual convolution and in both directions."""
    removed = draw(st.sets(st.sampled_from(PARTS)))
    bounds = st.none() if "long_convolution" in removed else st.none() | st.integers(1, LONGEST + 3)
    return M2MixerConfig(
        width=WIDTH,
        max_tokens=LONGEST,
        filter_order=8,
        causal=draw(st.booleans()) if causal is None else causal,
        residual_long_conv=draw(st.booleans()),
        short_taps=draw(st.integers(1, 5)),
        taps=draw(bounds),
        ablate=tuple(removed),
    )


def build(config: M2MixerConfig) -> M2Mixer:
    """Float64, every parameter of order 1."""
    mixer = config.build().double()
    assert isinstance(mixer, M2Mixer)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return mixer


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.abs().max())))


def by_definition(mixer: M2Mixer, x: Tensor) -> Tensor:
    """The sums as they stand in the documentation: O(T²), part by part."""
    config, tokens = mixer.config, x.shape[1]

    def long(convolution: Any, u: Tensor) -> Tensor:
        y = u * convolution.skip[:, None]
        if not isinstance(convolution, LongConvolution):
            return y
        lags = tokens if config.taps is None else min(tokens, config.taps)
        kernel = convolution.filter(lags).mT
        if config.causal:
            return y + causal_convolution_direct(u, kernel)
        return y + bidirectional_convolution_direct(u, kernel, convolution.filter(lags, reverse=True).mT)

    z = mixer.in_linear(x).mT
    if mixer.short is not None:
        z = causal_convolution_direct(z, mixer.short.weight.flip(-1)) + mixer.short.bias[:, None]
    if "gates" in config.ablate:
        y = long(mixer.long, z)
    else:
        gate_in, gate_out, value = z.chunk(3, dim=1)
        y = gate_out * long(mixer.long, gate_in * value)
    if mixer.residual is not None:
        y = y + long(mixer.residual, x.mT)
    return mixer.out_linear(y.mT)  # type: ignore[no-any-return]


@settings(deadline=None, max_examples=60)
@given(config=configs(), tokens=lengths, seed=st.integers(0, 9))
def test_output_equals_the_written_out_definition(config: M2MixerConfig, tokens: int, seed: int) -> None:
    torch.manual_seed(seed)
    mixer, x = build(config), randn(2, tokens, WIDTH)
    with torch.no_grad():
        close(mixer(x), by_definition(mixer, x))


@settings(deadline=None, max_examples=15)
@given(config=configs(), tokens=st.integers(1, 12))
def test_gradients_equal_those_of_the_definition(config: M2MixerConfig, tokens: int) -> None:
    mixer, gradients = build(config), []
    x = randn(2, tokens, WIDTH).requires_grad_()
    for function in (mixer, lambda x: by_definition(mixer, x)):
        y = function(x)
        gradients.append(
            torch.autograd.grad((y * y.detach()).sum(), (x, *mixer.parameters()), allow_unused=True)
        )
    for ours, theirs in zip(*gradients, strict=True):
        if theirs is None:  # a reverse kernel without a token to read
            assert ours is None or not ours.any()
        else:
            close(ours, theirs, 1e-8)


@settings(deadline=None, max_examples=40)
@given(
    config=configs(causal=True),
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    by_step=st.booleans(),
)
def test_decoding_in_any_chunks_equals_the_forward_and_holds_what_it_says(
    config: M2MixerConfig, chunks: list[int], by_step: bool
) -> None:
    mixer, total = build(config), min(sum(chunks), LONGEST)
    x, state, outputs, t = randn(3, total, WIDTH), mixer.init_state(3, LONGEST), [], 0
    assert tensors_nbytes(state) == mixer.state_bytes(0) == 0
    with torch.no_grad():
        for size in [1] * total if by_step else chunks:
            part = x[:, t : t + size]
            if part.shape[1] == 0:
                break
            y, state = mixer.prefill(part, state)
            outputs.append(y)
            t += part.shape[1]
            assert tensors_nbytes(state) == 3 * mixer.state_bytes(t)
        close(torch.cat(outputs, 1), mixer(x))


@settings(deadline=None, max_examples=25)
@given(
    config=configs(),
    documents=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    left=st.integers(0, 3),
)
def test_packed_documents_and_padding_never_meet(
    config: M2MixerConfig, documents: list[int], left: int
) -> None:
    mixer, parts = build(config), [randn(1, size, WIDTH) for size in documents]
    pads = torch.full((1, left, WIDTH), 50.0, dtype=torch.float64)
    ids = [0] * left + [i + 1 for i, size in enumerate(documents) for _ in range(size)]
    with torch.no_grad():
        y = mixer(torch.cat([pads, *parts], 1), torch.tensor([ids]))
        close(y[:, left:], torch.cat([mixer(part) for part in parts], 1))
    assert not y[:, :left].any()


@settings(deadline=None, max_examples=40)
@given(config=configs(), tokens=lengths, batch=st.integers(1, 3))
def test_cost_is_what_a_counted_forward_executes(config: M2MixerConfig, tokens: int, batch: int) -> None:
    with on_meta():
        mixer = config.build()
    counted = count_forward(lambda: mixer(torch.zeros(batch, tokens, WIDTH, device="meta")))
    cost = mixer.cost(tokens)
    assert not counted.unknown
    assert counted.matmul == batch * cost.matmul + cost.shared_matmul
    assert counted.fft == batch * cost.fft + cost.shared_fft


@pytest.mark.parametrize("part", PARTS)
def test_a_removed_part_leaves_no_parameter_cost_or_state(part: Any) -> None:
    whole = M2MixerConfig(width=WIDTH, max_tokens=LONGEST, residual_long_conv=True).build()
    ablated = M2MixerConfig(width=WIDTH, max_tokens=LONGEST, residual_long_conv=True, ablate=part).build()
    names = {name for name, _ in ablated.named_parameters()}
    before, after = whole.cost(9), ablated.cost(9)
    assert isinstance(whole, M2Mixer) and isinstance(ablated, M2Mixer)
    if part == "long_convolution":
        assert not any("filter" in name for name in names) and {"long.skip", "residual.skip"} <= names
        assert after.fft == after.shared_fft == after.shared_matmul == 0
        assert ablated.state_bytes(9) == 3 * WIDTH * 2 * 4
    elif part == "short_convolution":
        assert not any(name.startswith("short.") for name in names)
        assert before.matmul - after.matmul == 2 * 3 * 3 * WIDTH * 9
        assert whole.state_bytes(9) - ablated.state_bytes(9) == 3 * WIDTH * 2 * 4
    else:
        assert ablated.in_linear.weight.shape == (WIDTH, WIDTH)
        assert before.matmul - after.matmul == 2 * 2 * WIDTH * WIDTH * 9 + 2 * 3 * 2 * WIDTH * 9
        assert whole.state_bytes(9) - ablated.state_bytes(9) == 2 * WIDTH * 2 * 4


@pytest.mark.parametrize("lags", [1, 4, LONGEST])
def test_a_bounded_kernel_is_the_filter_of_its_own_length_and_zero_beyond(lags: int) -> None:
    torch.manual_seed(0)
    bounded = build(M2MixerConfig(width=WIDTH, max_tokens=LONGEST + 1, filter_order=8, taps=lags))
    short = M2MixerConfig(width=WIDTH, max_tokens=lags, filter_order=8).build().double()
    short.load_state_dict(bounded.state_dict())
    assert isinstance(bounded.long, BoundedConvolution) and isinstance(short, M2Mixer)
    with torch.no_grad():
        x = randn(1, lags, WIDTH)
        close(bounded(x), short(x))
        impulse = randn(WIDTH, 1, LONGEST + 5)
        impulse[..., 1:] = 0
        y = bounded.long(impulse)
    close(y[..., lags:], torch.zeros_like(y[..., lags:]), 1e-14)


def test_a_bound_as_long_as_the_sequence_is_no_bound() -> None:
    free = M2MixerConfig(width=WIDTH, max_tokens=9)
    bounded = M2MixerConfig(width=WIDTH, max_tokens=9, taps=9)
    assert type(bounded.build().long) is type(free.build().long) is LongConvolution  # type: ignore[attr-defined]


def test_a_bounded_state_streams_beyond_the_longest_training_sequence() -> None:
    mixer = build(M2MixerConfig(width=WIDTH, max_tokens=8, filter_order=8, taps=5))
    x, state, outputs = randn(2, 50, WIDTH), mixer.init_state(2, 50), []
    with torch.no_grad():
        for t in range(50):
            y, state = mixer.step(x[:, t], state)
            outputs.append(y)
            assert isinstance(state.gated, BoundedState) and state.gated.inputs.shape[-1] <= 4
        close(torch.stack(outputs, 1), mixer(x))
    assert mixer.state_bytes(50) == mixer.state_bytes(4)


def test_an_older_bounded_state_still_continues_as_before() -> None:
    mixer, x = build(M2MixerConfig(width=WIDTH, max_tokens=8, filter_order=8, taps=3)), randn(1, 6, WIDTH)
    with torch.no_grad():
        _, state = mixer.prefill(x[:, :4], mixer.init_state(1, 8))
        first, _ = mixer.step(x[:, 4], state)
        mixer.step(x[:, 5], state)
        assert torch.equal(mixer.step(x[:, 4], state)[0], first)


@settings(deadline=None, max_examples=20)
@given(config=configs(), tokens=lengths)
def test_plain_torch_on_request_gives_the_same_values(config: M2MixerConfig, tokens: int) -> None:
    mixer, x = build(config), randn(2, tokens, WIDTH)
    with torch.no_grad(), use_implementation("reference"):
        plain = mixer(x)
    with torch.no_grad(), use_implementation(""):
        close(mixer(x), plain, 1e-10)


@pytest.mark.parametrize("ablate", [(), "short_convolution"])
def test_gates_start_open_with_and_without_a_short_convolution(ablate: Any) -> None:
    mixer = M2MixerConfig(width=8, max_tokens=4, ablate=ablate).build()
    assert isinstance(mixer, M2Mixer)
    bias = mixer.in_linear.bias if mixer.short is None else mixer.short.bias
    assert (bias[:16] == 1).all() and (bias[16:] == 0).all()


def test_one_part_and_a_list_of_parts_mean_the_same() -> None:
    def config(ablate: Any) -> M2MixerConfig:
        return M2MixerConfig.from_options({"width": 4, "max_tokens": 8, "ablate": ablate})

    assert config("gates") == config(["gates"]) == config(["gates", "gates"])
    assert config(["gates", "long_convolution"]) == config(["long_convolution", "gates"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ablate": "gate"}, "did you mean 'gates'"),
        ({"ablate": ["gates", "long_convolutions"]}, r"ablate\[1\]: .*did you mean 'long_convolution'"),
        ({"taps": 0}, "taps: must be at least 1, got 0"),
        ({"taps": "many"}, "taps"),
        ({"taps": 4, "ablate": "long_convolution"}, "leave out one of them"),
    ],
)
def test_impossible_options_are_refused_in_one_line(options: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        M2MixerConfig.from_options({"width": 4, "max_tokens": 8, **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", [{"ablate": "gates"}, {"taps": 4}])
def test_the_polynomial_product_has_neither_option(option: Any) -> None:
    with pytest.raises(ConfigError, match="unknown option"):
        MonarchPolynomialConfig.from_options({"width": 4, "max_tokens": 8, **option})
