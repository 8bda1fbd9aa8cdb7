"""The short convolution of attention: equal to its definition, causal, isolated, decodable, counted.

Legend: B batch, T tokens, D width, w window.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_lab.accounting.counter import count_forward
from arch_lab.models import on_meta
from blocks.attention.gemma import GemmaAttention
from blocks.contract import tensors_nbytes
from blocks.dispatch import use_implementation
from blocks.errors import ConfigError
from blocks.registry import build
from tests.blocks.attention_reference import make, reference, tokens

W = 5
NAMES = ("gemma1_attention", "gemma2_attention", "gemma3_attention", "gemma4_attention")
SPANS: tuple[dict[str, Any], ...] = ({}, {"window": W}, {"causal": False}, {"causal": False, "radius": 2})
names, taps = st.sampled_from(NAMES), st.integers(1, 6)
every_block = pytest.mark.parametrize("name", NAMES)


@every_block
@pytest.mark.parametrize("span", SPANS, ids=str)
def test_output_equals_the_written_out_definition(name: str, span: dict[str, Any]) -> None:
    block = make(name, **span, short_convolution=3)
    with torch.no_grad():
        for t in (1, 2, W, 2 * W + 1):
            x = tokens(t, batch=1)
            torch.testing.assert_close(block(x), reference(block, x), rtol=1e-10, atol=1e-10)


def test_one_convolution_serves_keys_and_values_of_one_projection() -> None:
    block, x = make("gemma4_attention", k_eq_v=True, short_convolution=3), tokens(7, batch=1)
    assert block.short is not None and len(block.short.weights) == 2
    with torch.no_grad():
        torch.testing.assert_close(block(x), reference(block, x), rtol=1e-10, atol=1e-10)


@every_block
def test_gradients_equal_those_of_the_definition(name: str) -> None:
    block, gradients = make(name, short_convolution=4), []
    for function in (block, lambda x: reference(block, x)):
        x = tokens(6, batch=1).requires_grad_()
        gradients.append(torch.autograd.grad(function(x).square().sum(), (x, *block.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_a_kernel_that_is_1_at_the_token_itself_is_no_convolution() -> None:
    plain, convolved = make("gemma3_attention"), make("gemma3_attention", short_convolution=3)
    convolved.load_state_dict(plain.state_dict(), strict=False)
    assert convolved.short is not None
    with torch.no_grad():
        for weight in convolved.short.weights:
            weight.zero_()[:, -1] = 1
    x = tokens(9)
    torch.testing.assert_close(convolved(x), plain(x), rtol=1e-13, atol=1e-13)


def test_every_tap_gets_a_gradient_from_the_first_step_on() -> None:
    block = build("gemma3_attention", width=12, kv_heads=2, head_width=6, short_convolution=3)
    assert isinstance(block, GemmaAttention) and block.short is not None
    block(torch.randn(2, 9, 12)).square().sum().backward()
    for weight in block.short.weights:
        assert weight.grad is not None and (weight.grad.abs().amax(0) > 0).all()


@settings(deadline=None, max_examples=25)
@given(
    name=names,
    taps=taps,
    window=st.none() | st.integers(1, 7),
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    reserved=st.booleans(),
)
def test_decoding_in_any_chunks_equals_the_forward_and_holds_what_it_says(
    name: str, taps: int, window: int | None, chunks: list[int], reserved: bool
) -> None:
    block, total = make(name, window=window, short_convolution=taps), sum(chunks)
    x = tokens(total, batch=3)
    state = block.reserve_state(3, total) if reserved else block.init_state(3, total)
    outputs, t = [], 0
    with torch.no_grad():
        for size in chunks:
            if size == 1:
                y, state = block.step(x[:, t], state)
                y = y[:, None]
            else:
                y, state = block.prefill(x[:, t : t + size], state)
            outputs.append(y)
            t += size
            assert tensors_nbytes(state) == 3 * block.state_bytes(total if reserved else t)
        torch.testing.assert_close(torch.cat(outputs, 1), block(x), rtol=1e-11, atol=1e-11)


def test_an_older_growing_state_still_continues_as_before() -> None:
    block, x = make("gemma3_attention", short_convolution=3), tokens(6)
    with torch.no_grad():
        _, state = block.prefill(x[:, :4], block.init_state(2, 6))
        first, _ = block.step(x[:, 4], state)
        block.step(x[:, 5], state)
        again, _ = block.step(x[:, 4], state)
    assert torch.equal(first, again)


@settings(deadline=None, max_examples=25)
@given(
    name=names,
    span=st.sampled_from(SPANS),
    taps=taps,
    documents=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    left=st.integers(0, 3),
)
def test_packed_documents_and_padding_never_meet(
    name: str, span: dict[str, Any], taps: int, documents: list[int], left: int
) -> None:
    block = make(name, **span, short_convolution=taps)
    parts = [tokens(size, batch=1, seed=i) for i, size in enumerate(documents)]
    pads = torch.full((1, left, 12), 50.0, dtype=torch.float64)
    ids = [0] * left + [i + 1 for i, size in enumerate(documents) for _ in range(size)]
    with torch.no_grad():
        y = block(torch.cat([pads, *parts], 1), torch.tensor([ids]))
        alone = torch.cat([block(part) for part in parts], 1)
    torch.testing.assert_close(y[:, left:], alone, rtol=1e-11, atol=1e-11)
    assert not y[:, :left].any()


@settings(deadline=None, max_examples=20)
@given(name=names, taps=taps, t=st.integers(1, 20), batch=st.integers(1, 2), equal=st.booleans())
def test_cost_is_what_a_counted_forward_executes(
    name: str, taps: int, t: int, batch: int, equal: bool
) -> None:
    options = {"k_eq_v": equal} if name == "gemma4_attention" else {}
    with on_meta():
        block = build(name, width=12, heads=4, kv_heads=2, head_width=6, short_convolution=taps, **options)
    counted = count_forward(lambda: block(torch.empty(batch, t, 12, device="meta")))
    assert not counted.unknown
    assert (counted.matmul, counted.fft) == (batch * block.cost(t).matmul, 0)
    plain = build(name, width=12, heads=4, kv_heads=2, head_width=6, **options)
    channels = 6 * (4 + 2 * 2 - 2 * (options.get("k_eq_v") is True))
    assert block.cost(t).matmul - plain.cost(t).matmul == 2 * taps * channels * t


@pytest.mark.parametrize("segments", [None, torch.tensor([[1, 1, 1, 2, 2, 0, 0], [3, 4, 4, 4, 4, 4, 5]])])
def test_operator_and_plain_torch_on_request_give_the_same_values_and_gradients(segments: Any) -> None:
    block, x, results = make("gemma2_attention", short_convolution=3), tokens(7), []
    for request in ("", "short_convolution=reference", "short_convolution=operator"):
        with use_implementation(request):
            y = block(x, segments)
            results.append((y, *torch.autograd.grad(y.square().sum(), tuple(block.parameters()))))
    for ours, plain, operator in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
        assert torch.equal(ours, operator)


@pytest.mark.parametrize("value", [0, -1, 65, 2.5, "three", True])
def test_impossible_taps_are_refused_in_one_line_that_names_the_option(value: Any) -> None:
    with pytest.raises(ConfigError, match="short_convolution") as error:
        build("gemma3_attention", width=8, short_convolution=value)
    assert "\n" not in str(error.value)
