"""Generation through a long convolution: exact at every token, with the memory it states."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from m2_goldens import close
from torch import Tensor

from arch_lab.models import Shape, recipe
from blocks.contract import tensors_nbytes
from blocks.convolution import online
from blocks.convolution.fft import causal_convolution
from blocks.convolution.gated import GatedLongConvConfig
from blocks.convolution.mixer import M2MixerConfig
from blocks.convolution.online import OnlineKernel, OnlineState, capacity, empty_state, extend, settle
from blocks.errors import ConfigError


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 2, 4, 8, … from the second token on: every branch within a few dozen tokens."""
    monkeypatch.setattr(online, "BLOCK", 2)


def randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def fed(u: Tensor, state: OnlineState, kernel: OnlineKernel, chunks: list[int]) -> tuple[Tensor, OnlineState]:
    outputs = []
    for part in u.split(chunks, dim=-1):
        y, state = extend(part, state, kernel)
        outputs.append(y)
    return torch.cat(outputs, dim=-1), state


def steps(tokens: int) -> list[int]:
    return [1] * tokens


@torch.no_grad()
@settings(deadline=None, max_examples=15)
@given(chunks=st.lists(st.integers(1, 9) | st.just(1), min_size=1, max_size=40), spare=st.integers(0, 20))
def test_any_chunks_give_the_parallel_convolution_and_hold_their_capacity(
    chunks: list[int], spare: int
) -> None:
    tokens = sum(chunks)
    u, k = randn(2, 3, tokens), randn(3, tokens + spare)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(online, "BLOCK", 2)
        state, kernel, t = empty_state(2, 3, tokens + spare, like=u), OnlineKernel(k), 0
        expected = causal_convolution(u, k)
        for size in chunks:
            y, state = extend(u[..., t : t + size], state, kernel)
            close(y, expected[..., t : t + size], 1e-10)
            t += size
            assert state.slots.shape == (2, 3, capacity(t, tokens + spare))


@pytest.mark.parametrize("prompt", [0, 1, 77, 300])
def test_steps_after_a_prompt_equal_the_parallel_convolution(prompt: int) -> None:
    tokens = prompt + 523  # past blocks of 64 and tiles of 64, 128 and 256
    u, k = randn(2, 3, tokens), randn(3, tokens)
    y, _ = fed(
        u,
        empty_state(2, 3, tokens, like=u),
        OnlineKernel(k),
        [prompt, *steps(523)] if prompt else steps(tokens),
    )
    close(y, causal_convolution(u, k), 1e-10)


@pytest.mark.parametrize("prompt", [0, 1, 40, 250])
@pytest.mark.usefixtures("tiny_blocks")
def test_a_settled_state_goes_on_exactly_and_its_size_does_not_know_the_prompt(prompt: int) -> None:
    coming = 37
    u, k = randn(2, 3, prompt + coming), randn(3, prompt + coming)
    kernel, expected = OnlineKernel(k), causal_convolution(u, k)
    state = empty_state(2, 3, prompt + coming, like=u)
    if prompt:
        _, state = extend(u[..., :prompt], state, kernel)
    state = settle(state, kernel, coming)
    assert state.slots.shape == (2, 3, coming)
    y, state = fed(u[..., prompt:], state, kernel, [5, *steps(20), 12])
    close(y, expected[..., prompt:], 1e-10)
    assert state.slots.shape == (2, 3, coming)


@pytest.mark.usefixtures("tiny_blocks")
def test_outputs_fed_back_as_inputs_give_the_recurrence() -> None:
    """What generation is: u[t + 1] is a function of y[t]."""
    tokens, k = 50, 0.3 * randn(2, 50)
    state, kernel = empty_state(1, 2, tokens, like=k), OnlineKernel(k)
    x, history = randn(1, 2, 1), []
    for t in range(tokens):
        history.append(x)
        y, state = extend(x, state, kernel)
        naive = sum(k[None, :, t - s, None] * history[s] for s in range(t + 1))
        close(y, torch.as_tensor(naive), 1e-10)
        x = torch.tanh(y)


def test_single_precision_loses_a_few_roundings_only() -> None:
    u, k = randn(1, 4, 700), randn(4, 700)
    y, _ = fed(u.float(), empty_state(1, 4, 700, like=u.float()), OnlineKernel(k.float()), [100, *steps(600)])
    # operands and ten tiles round at 6e-8 each; measured 3e-7
    close(y.double(), causal_convolution(u, k), 2e-6)


def test_pending_sums_are_never_narrower_than_single_precision() -> None:
    assert empty_state(1, 2, 8, like=torch.zeros(1, dtype=torch.bfloat16)).slots.dtype == torch.float32


@pytest.mark.usefixtures("tiny_blocks")
def test_gradients_flow_through_every_step_as_through_the_convolution() -> None:
    u, k = randn(2, 3, 21).requires_grad_(), randn(3, 21).requires_grad_()
    y, _ = fed(u, empty_state(2, 3, 21, like=u), OnlineKernel(k), [3, *steps(18)])
    g = torch.randn_like(y)
    for a, b in zip(
        torch.autograd.grad(y, (u, k), g),
        torch.autograd.grad(causal_convolution(u, k), (u, k), g),
        strict=True,
    ):
        close(a, b, 1e-10)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [3, 70])
def test_a_state_that_was_gone_on_from_is_refused_and_a_copy_is_not(tokens: int) -> None:
    u, kernel = randn(1, 2, tokens), OnlineKernel(randn(2, 200))
    _, state = fed(u, empty_state(1, 2, 200, like=u), kernel, steps(tokens))
    twin = copy.deepcopy(state)
    extend(randn(1, 2, 1), state, kernel)
    with pytest.raises(ConfigError, match="was updated to"):
        extend(randn(1, 2, 1), state, kernel)
    extend(randn(1, 2, 1), twin, kernel)


def test_impossible_requests_say_what_is_missing() -> None:
    u, kernel = randn(1, 2, 5), OnlineKernel(randn(2, 6))
    _, state = extend(u, empty_state(1, 2, 8, like=u), kernel)
    with pytest.raises(ConfigError, match="7 tokens exceed the 6"):
        extend(randn(1, 2, 2), state, kernel)
    with pytest.raises(ConfigError, match="cannot settle for 2"):
        settle(state, kernel, 2)
    settled = settle(state, kernel, 1)
    with pytest.raises(ConfigError, match="already settled"):
        settle(settled, kernel, 1)
    with pytest.raises(ConfigError, match="settled for"):
        extend(randn(1, 2, 2), settled, kernel)


@given(tokens=st.integers(1, 5000), longest=st.integers(1, 5000))
def test_slots_hold_every_token_and_are_fewer_than_twice_as_many(tokens: int, longest: int) -> None:
    tokens = min(tokens, longest)
    assert tokens <= capacity(tokens, longest) <= min(longest, max(online.BLOCK, 2 * tokens - 1))


# --- mixers and models ------------------------------------------------------------------------------------------------

MIXERS: dict[str, Any] = {
    "m2_mixer": lambda n: M2MixerConfig(width=4, max_tokens=n, filter_order=8),
    "m2_mixer residual": lambda n: M2MixerConfig(
        width=4, max_tokens=n, filter_order=8, residual_long_conv=True
    ),
    "gated_long_conv": lambda n: GatedLongConvConfig(width=4, max_tokens=n, filter_order=8),
}


def generated(name: str, tokens: int, prompt: int, *, settled: bool) -> None:
    mixer = MIXERS[name](tokens).build().double()
    x = randn(2, tokens, 4)
    with torch.no_grad():
        y, state = mixer.prefill(x[:, :prompt], mixer.init_state(2, tokens))
        outputs = [y]
        assert tensors_nbytes(state) == 2 * mixer.state_bytes(prompt)
        if settled:
            state = mixer.settle(state, tokens - prompt)
        for t in range(prompt, tokens):
            y, state = mixer.step(x[:, t], state)
            outputs.append(y[:, None])
            if not settled:
                assert tensors_nbytes(state) == 2 * mixer.state_bytes(t + 1)
        close(torch.cat(outputs, dim=1), mixer(x), 1e-10)


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("name", MIXERS)
def test_generation_equals_the_offline_forward_token_by_token(name: str, settled: bool) -> None:
    generated(name, 512, 100, settled=settled)


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [1, 1000])
@pytest.mark.parametrize("name", MIXERS)
def test_long_generation_equals_the_offline_forward_token_by_token(name: str, prompt: int) -> None:
    generated(name, 4096, prompt, settled=prompt > 1)


@pytest.mark.parametrize("prompt", [5, 150])
def test_a_settled_mixer_holds_one_number_a_channel_for_each_token_to_come(prompt: int) -> None:
    mixer = MIXERS["m2_mixer residual"](200).build().double()
    _, state = mixer.prefill(randn(3, prompt, 4), mixer.init_state(3, 200))
    held = tensors_nbytes(mixer.settle(state, 50))
    assert held == 3 * 8 * (2 * 4 * 50 + 3 * 4 * 2)  # two convolutions, and two inputs of the short one


@pytest.mark.parametrize("name", ["m2_gpt", "gemma3"])
def test_a_settled_model_gives_the_logits_of_the_offline_forward(name: str) -> None:
    model = recipe(name, {"filter_order": 8} if name == "m2_gpt" else {}).model(
        Shape(width=32, depth=2, ffn_width=32), vocabulary=11, max_tokens=90
    )
    model = model.double().eval()
    tokens = torch.randint(11, (2, 90))
    with torch.no_grad():
        first, state = model.prefill(tokens[:, :20], model.init_state(2))
        state, outputs = model.settle(state, 70), [first]
        for t in range(20, 90):
            logits, state = model.step(tokens[:, t], state)
            outputs.append(logits[:, None])
        close(torch.cat(outputs, dim=1), model(tokens), 1e-9)
