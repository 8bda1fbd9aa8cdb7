"""Gemma's attention against a written-out O(T^2) reference, and the laws of masked attention, exact where they can be.

Legend: B batch, T tokens, D width, H query heads, K key/value heads, C head width, w window.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.attention.core import attend
from blocks.attention.masks import attended_pairs, visible
from blocks.contract import tensors_nbytes
from blocks.errors import ConfigError
from blocks.registry import build
from tests.blocks.attention_reference import make, reference, sees, tokens

W = 5  # window of the tests; every length below crosses it
LENGTHS = (1, W - 1, W, W + 1, 2 * W + 1)
NAMES = ("gemma1_attention", "gemma2_attention", "gemma3_attention", "gemma4_attention")
SPANS: tuple[dict[str, Any], ...] = ({}, {"window": W}, {"causal": False}, {"causal": False, "radius": 2})
CAUSAL_SPANS = SPANS[:2]
every_block = pytest.mark.parametrize("name", NAMES)
every_span = pytest.mark.parametrize("span", SPANS, ids=str)
every_causal_span = pytest.mark.parametrize("span", CAUSAL_SPANS, ids=str)


@every_block
@every_span
def test_output_equals_the_written_out_reference_around_the_window(name: str, span: dict[str, Any]) -> None:
    block = make(name, **span, query_scale=0.7)
    with torch.no_grad():
        for t in LENGTHS:
            x = tokens(t, batch=1)
            torch.testing.assert_close(block(x), reference(block, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "option", [{"softcap": 0.8}, {"rope_base": 100.0}, {"rope_factor": 8.0}, {"query_scale": 0.1}], ids=str
)
def test_every_number_of_the_configuration_changes_the_output_as_the_reference_says(
    option: dict[str, float],
) -> None:
    name = "gemma2_attention" if "softcap" in option else "gemma3_attention"
    x, block = tokens(7, batch=1), make(name, **option)
    with torch.no_grad():
        torch.testing.assert_close(block(x), reference(block, x), rtol=1e-10, atol=1e-10)
        assert (block(x) - make(name)(x)).abs().max() > 1e-3


@every_block
@every_span
def test_gradients_equal_those_of_the_reference(name: str, span: dict[str, Any]) -> None:
    """The reference is plain autograd; the soft-capped path and the masks must not disturb a gradient."""
    options = {"softcap": 1.0} if name == "gemma2_attention" else {}
    block = make(name, **span, **options)
    gradients = []
    for function in (block, lambda x: reference(block, x)):
        x = tokens(W + 2, batch=1).requires_grad_()
        gradients.append(torch.autograd.grad(function(x).square().sum(), (x, *block.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@every_block
def test_as_many_key_heads_as_query_heads_is_multi_head_attention(name: str) -> None:
    """A grouped block equals the multi-head one whose key and value heads are copies of the shared ones."""
    grouped, full = make(name, kv_heads=2), make(name, kv_heads=4)
    state = grouped.state_dict()
    for part in ("key.weight", "value.weight"):
        state[part] = state[part].unflatten(0, (2, 6)).repeat_interleave(2, 0).flatten(0, 1)
    full.load_state_dict(state)
    x = tokens(9)
    torch.testing.assert_close(full(x), grouped(x), rtol=1e-12, atol=1e-12)


def test_a_huge_softcap_is_no_softcap() -> None:
    x = tokens(11)
    for span in CAUSAL_SPANS:
        # c·tanh(s/c) = s - s^3/(3c^2): at c = 1e8 the difference is below rounding
        capped, plain = (
            make("gemma2_attention", softcap=1e8, **span),
            make("gemma2_attention", softcap=None, **span),
        )
        torch.testing.assert_close(capped(x), plain(x), rtol=1e-7, atol=1e-9)


@every_block
def test_a_window_as_long_as_the_row_is_full_attention(name: str) -> None:
    x = tokens(9)
    assert torch.equal(make(name, window=9)(x), make(name)(x))
    assert torch.equal(make(name, causal=False, radius=8)(x), make(name, causal=False)(x))
    assert not torch.allclose(make(name, window=8)(x), make(name)(x))


def test_qk_norm_makes_the_output_independent_of_the_size_of_queries_and_keys() -> None:
    block, x = make("gemma3_attention"), tokens(9)
    before = block(x)
    with torch.no_grad():
        block.query.weight.mul_(50)
        block.key.weight.mul_(0.2)
    torch.testing.assert_close(
        block(x), before, rtol=1e-3, atol=1e-3
    )  # eps 1e-6 in the norm is felt by small heads


# --- causality, locality, isolation ------------------------------------------------------------------------------


@every_block
@every_causal_span
@settings(deadline=None, max_examples=12)
@given(t=st.integers(2, 65), dtype=st.sampled_from([torch.float32, torch.float64]), data=st.data())
def test_future_tokens_never_reach_the_past(
    name: str, span: dict[str, Any], t: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    """Bit-exact: a masked key has weight exactly 0, whatever it holds. The suffix itself does react."""
    cut = data.draw(st.integers(1, t - 1))
    block, x = make(name, dtype=dtype, **span), tokens(t, dtype=dtype)
    changed = x.clone()
    changed[:, cut:] = 100 * torch.randn_like(changed[:, cut:])
    with torch.no_grad():
        before, after = block(x), block(changed)
    assert torch.equal(before[:, :cut], after[:, :cut])
    assert (before[:, cut:] - after[:, cut:]).abs().max() > 1e-3


@every_block
@every_causal_span
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_causality_holds_beyond_the_tile_of_the_fused_kernel(
    name: str, span: dict[str, Any], dtype: torch.dtype
) -> None:
    """torch's CPU kernel walks 512 keys at a time: with a window whole tiles are masked."""
    block, x = make(name, dtype=dtype, **span), tokens(600, batch=1, dtype=dtype)
    changed = x.clone()
    changed[:, 515:] = 100 * torch.randn_like(changed[:, 515:])
    with torch.no_grad():
        assert torch.equal(block(x)[:, :515], block(changed)[:, :515])
        tail = tokens(600, batch=1, dtype=dtype)[:, -W:]
        if span:
            mixed = torch.cat((changed[:, :-W], tail), dim=1)
            assert torch.equal(block(x)[:, -1], block(mixed)[:, -1])


@every_block
@every_span
def test_the_gradient_touches_exactly_the_tokens_the_mask_allows(name: str, span: dict[str, Any]) -> None:
    block, t = make(name, **span), 2 * W + 1
    x = tokens(t, batch=1).requires_grad_()
    y = block(x)
    for q in range(t):
        (gradient,) = torch.autograd.grad(y[0, q].sum(), x, retain_graph=True)
        assert [bool(g.any()) for g in gradient[0]] == [sees(q, k, block.config) for k in range(t)]


@every_block
@every_span
def test_a_packed_document_equals_the_document_alone(name: str, span: dict[str, Any]) -> None:
    """Padding left, right and between; an id that comes back after another is a new document."""
    block = make(name, **span)
    segments = torch.tensor([[0, 0, 7, 7, 7, 7, 7, 7, 7, 3, 0, 7, 7, 0]])
    x = tokens(14, batch=1)
    x[0, segments[0] == 0] = float("nan")  # padding may hold anything
    y = block(x, segments)
    for start, stop in ((2, 9), (9, 10), (11, 13)):
        torch.testing.assert_close(y[:, start:stop], block(x[:, start:stop]), rtol=1e-11, atol=1e-12)
    assert torch.equal(y[0, segments[0] == 0], torch.zeros(4, 12, dtype=y.dtype))


@every_block
@every_span
def test_changing_one_document_leaves_the_other_bit_identical(name: str, span: dict[str, Any]) -> None:
    block, x = make(name, **span), tokens(13)
    segments = torch.tensor([[1] * 6 + [2] * 7, [0] * 3 + [5] * 10])
    changed = x.clone()
    changed[0, :6] *= -50
    with torch.no_grad():
        before, after = block(x, segments), block(changed, segments)
    assert torch.equal(before[0, 6:], after[0, 6:]) and torch.equal(before[1], after[1])
    assert not torch.allclose(before[0, :6], after[0, :6])


@every_block
def test_gradients_stay_finite_with_padding(name: str) -> None:
    block = make(name, window=3)
    x = tokens(8).requires_grad_()
    block(x, torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0], [0] * 8])).square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and not x.grad[1].any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


# --- decoding ----------------------------------------------------------------------------------------------------


@every_block
@every_causal_span
@settings(deadline=None, max_examples=15)
@given(chunks=st.lists(st.integers(1, 2 * W + 1), min_size=1, max_size=6))
def test_any_chunking_equals_the_parallel_forward(name: str, span: dict[str, Any], chunks: list[int]) -> None:
    block, x = make(name, **span), tokens(sum(chunks))
    state, parts, done = block.init_state(2, len(x[0])), [], 0
    with torch.no_grad():
        for chunk in x.split(chunks, dim=1):
            y, state = block.prefill(chunk, state)
            parts.append(y)
            done += chunk.shape[1]
            assert tensors_nbytes(state) == 2 * block.state_bytes(done)
        torch.testing.assert_close(torch.cat(parts, 1), block(x), rtol=1e-10, atol=1e-10)


@every_block
@every_causal_span
def test_token_by_token_equals_the_parallel_forward(name: str, span: dict[str, Any]) -> None:
    block, x = make(name, **span), tokens(2 * W + 3)
    state, parts = block.init_state(2, 64), []
    with torch.no_grad():
        for t in range(x.shape[1]):
            y, state = block.step(x[:, t], state)
            parts.append(y)
        torch.testing.assert_close(torch.stack(parts, 1), block(x), rtol=1e-10, atol=1e-10)


@every_block
def test_the_state_holds_no_more_memory_than_it_counts(name: str) -> None:
    """A trimmed view would keep the whole chunk alive behind the few entries that are counted."""
    block = make(name, window=W)
    _, state = block.prefill(tokens(50), block.init_state(2, 64))
    assert state.k.untyped_storage().nbytes() + state.v.untyped_storage().nbytes() == 2 * block.state_bytes(
        50
    )
    assert block.state_bytes(50) == 2 * 2 * 6 * 8 * W  # keys and values, K, C, float64, window


@every_block
def test_a_bidirectional_block_refuses_to_decode(name: str) -> None:
    with pytest.raises(ConfigError, match="bidirectional"):
        make(name, causal=False).init_state(1, 8)


# --- the ledger --------------------------------------------------------------------------------------------------

span_options = st.one_of(
    st.builds(lambda w: {"causal": True, "window": w}, st.none() | st.integers(1, 40)),
    st.builds(lambda r: {"causal": False, "radius": r}, st.none() | st.integers(0, 40)),
)


@settings(deadline=None, max_examples=25)
@given(t=st.integers(0, 33), span=span_options)
def test_attended_pairs_counts_the_true_entries_of_the_mask(t: int, span: dict[str, Any]) -> None:
    block = build("gemma1_attention", width=2, heads=1, kv_heads=1, **span)
    brute = sum(sees(q, k, block.config) for q in range(t) for k in range(t))
    mask = visible(t, t, **span)
    assert attended_pairs(t, **span) == brute == (t * t if mask is None else int(mask.sum()))


@every_block
@every_span
def test_flops_are_projections_and_exactly_the_attended_pairs(name: str, span: dict[str, Any]) -> None:
    block, t = make(name, **span), 2 * W + 1
    matrices = sum(p.numel() for p in block.parameters() if p.dim() == 2)
    assert matrices == 12 * 6 * (2 * 4 + 2 * 2)
    brute = sum(sees(q, k, block.config) for q in range(t) for k in range(t))
    assert block.cost(t).matmul == block.flops(t) == 2 * t * matrices + 4 * 4 * 6 * brute


def test_elementwise_cost_follows_its_formula() -> None:
    t, pairs = 9, 4 * 45  # 4 heads, 9·10/2 pairs
    rotated = t * (4 + 2) * 6
    assert make("gemma1_attention").cost(t).elementwise == 3 * rotated + 6 * pairs
    assert make("gemma2_attention").cost(t).elementwise == 3 * rotated + 9 * pairs
    assert make("gemma3_attention").cost(t).elementwise == 7 * rotated + 6 * pairs


# --- numerics and configuration ----------------------------------------------------------------------------------


@every_block
def test_bfloat16_stays_near_float32(name: str) -> None:
    wide = make(name, dtype=torch.float32, window=W)
    narrow = make(name, dtype=torch.bfloat16, window=W)
    x = tokens(16, dtype=torch.float32).bfloat16()
    y = narrow(x)
    assert y.dtype == torch.bfloat16
    difference = (y.float() - wide.requires_grad_(False)(x.float())).abs().max()
    assert difference < 0.05 * wide(x.float()).abs().max()  # bfloat16 keeps 8 bits; four roundings on the way


def test_reset_draws_every_parameter_anew_from_the_global_generator() -> None:
    block = make("gemma3_attention")
    torch.manual_seed(3)
    block.reset_parameters()
    first = {n: p.clone() for n, p in block.named_parameters()}
    torch.manual_seed(3)
    block.reset_parameters()
    assert all(torch.equal(first[n], p) for n, p in block.named_parameters())
    assert not block.query_norm.weight.any()  # (1 + w) gains start at w = 0


def test_segments_with_cached_keys_are_refused() -> None:
    q, k = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    with pytest.raises(ConfigError, match="segments"):
        attend(q, k, k, scale=1.0, segments=torch.ones(1, 3, dtype=torch.long), offset=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": False, "window": 4}, "give radius"),
        ({"radius": 4}, "give window"),
        ({"window": 0}, "window must be at least 1"),
        ({"causal": False, "radius": -1}, "radius must be at least 0"),
        ({"kv_heads": 3}, "multiple of kv_heads"),
        ({"head_width": 5}, "must be even"),
        ({"head_width": None, "heads": 5, "kv_heads": 1}, "set head_width"),
        ({"query_scale": 0.0}, "query_scale must be a positive number"),
        ({"rope_base": -1.0}, "rope_base must be a positive number"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"windw": 4}, "did you mean 'window'"),
    ],
    ids=str,
)
@every_block
def test_impossible_options_are_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        make(name, **options)
    assert "\n" not in str(error.value)
