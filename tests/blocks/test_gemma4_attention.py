"""What Gemma 4 adds to attention (K=V, norms of heads and values, unscaled scores), and p-RoPE in every generation.

Legend: B batch, T tokens, H query heads, K key/value heads, C head width, p fraction of rotated frequencies.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from einops import rearrange

from blocks.attention.core import attend
from blocks.contract import tensors_nbytes
from blocks.errors import ConfigError
from blocks.registry import build
from tests.blocks.attention_reference import make, reference, tokens

NAMES = ("gemma1_attention", "gemma2_attention", "gemma3_attention", "gemma4_attention")
every_block = pytest.mark.parametrize("name", NAMES)
W = 5


# --- keys and values from one projection -------------------------------------------------------------------------


@pytest.mark.parametrize("span", [{}, {"window": W}, {"causal": False, "radius": 2}], ids=str)
def test_keys_normed_and_rotated_and_values_neither_come_from_one_projection(span: dict[str, Any]) -> None:
    block = make("gemma4_attention", k_eq_v=True, rope_fraction=0.5, head_width=8, **span)
    assert not any(name.startswith("value") for name in block.state_dict())
    x = tokens(2 * W + 1, batch=1)
    torch.testing.assert_close(block(x), reference(block, x), rtol=1e-10, atol=1e-10)


def test_gradients_reach_the_shared_projection_from_both_sides() -> None:
    block = make("gemma4_attention", k_eq_v=True)
    gradients = []
    for function in (block, lambda x: reference(block, x)):
        x = tokens(W + 2, batch=1).requires_grad_()
        gradients.append(torch.autograd.grad(function(x).square().sum(), (x, *block.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_two_projections_of_equal_weights_are_one() -> None:
    shared, apart = make("gemma4_attention", k_eq_v=True), make("gemma4_attention")
    apart.load_state_dict({**shared.state_dict(), "value.weight": shared.key.weight})
    x = tokens(9)
    assert torch.equal(apart(x), shared(x))


def test_one_projection_saves_exactly_its_weights_and_flops_and_no_cache() -> None:
    shared, apart = make("gemma4_attention", k_eq_v=True), make("gemma4_attention")
    saved = 12 * 6 * 2  # D, C, K
    assert sum(p.numel() for p in apart.parameters()) - sum(p.numel() for p in shared.parameters()) == saved
    assert apart.flops(11) - shared.flops(11) == 2 * 11 * saved
    state = shared.prefill(tokens(11), shared.init_state(2, 16))[1]
    assert shared.state_bytes(11) == apart.state_bytes(11) and tensors_nbytes(
        state
    ) == 2 * shared.state_bytes(11)


def test_the_size_of_any_projection_but_the_last_does_not_matter() -> None:
    """Queries, keys and values are normed; eps 1e-6 is felt by small heads only."""
    block, x = make("gemma4_attention"), tokens(9)
    before = block(x)
    with torch.no_grad():
        for projection, factor in ((block.query, 50.0), (block.key, 0.2), (block.value, 30.0)):
            projection.weight.mul_(factor)
    torch.testing.assert_close(block(x), before, rtol=1e-3, atol=1e-3)


def test_scores_are_not_scaled_unless_asked() -> None:
    assert build("gemma4_attention", width=8, heads=2).scale == 1.0
    assert build("gemma4_attention", width=8, heads=2, query_scale=None).scale == 0.5  # C = 4


def test_elementwise_cost_follows_its_formula() -> None:
    t, pairs = 9, 4 * 45  # 4 heads, 9·10/2 pairs
    assert make("gemma4_attention").cost(t).elementwise == t * 6 * (7 * (4 + 2) + 3 * 2) + 6 * pairs


# --- p-RoPE ------------------------------------------------------------------------------------------------------


@every_block
@pytest.mark.parametrize("drop", ["low", "high"])
@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_a_fraction_equals_the_written_out_reference(name: str, fraction: float, drop: str) -> None:
    block, x = make(name, head_width=8, rope_fraction=fraction, rope_drop=drop), tokens(7, batch=1)
    with torch.no_grad():
        torch.testing.assert_close(block(x), reference(block, x), rtol=1e-10, atol=1e-10)


@every_block
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fraction_zero_is_no_position_encoding_to_the_bit(name: str, dtype: torch.dtype) -> None:
    block, x = make(name, dtype=dtype, rope_fraction=0.0), tokens(9, dtype=dtype)
    config = block.config
    q, k = (rearrange(p(x), "b t (h c) -> b h t c", c=config.channels) for p in (block.query, block.key))
    v = block.value_norm(rearrange(block.value(x), "b t (h c) -> b h t c", c=config.channels))
    softcap = getattr(config, "softcap", None)
    y = attend(block.query_norm(q), block.key_norm(k), v, scale=block.scale, softcap=softcap)
    assert torch.equal(block(x), block.out(rearrange(y, "b h t c -> b t (h c)")))


@every_block
def test_without_positions_a_permutation_of_the_tokens_permutes_the_outputs(name: str) -> None:
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    x = tokens(9)
    free, rotary = (make(name, causal=False, rope_fraction=p) for p in (0.0, 1.0))
    torch.testing.assert_close(free(x[:, order]), free(x)[:, order], rtol=1e-12, atol=1e-12)
    assert (rotary(x[:, order]) - rotary(x)[:, order]).abs().max() > 1e-3


@every_block
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_fraction_decodes_past_its_window_as_it_computes_in_parallel(name: str, fraction: float) -> None:
    block, x = make(name, window=W, rope_fraction=fraction), tokens(2 * W + 3)
    state, parts = block.init_state(2, 64), []
    for chunk in x.split([1, W + 1, 1, W], dim=1):
        y, state = block.prefill(chunk, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), block(x), rtol=1e-10, atol=1e-10)


@every_block
@pytest.mark.parametrize(("fraction", "pairs"), [(0.0, 0), (0.25, 1), (0.75, 3), (1.0, 4)])
def test_only_what_is_rotated_is_charged(name: str, fraction: float, pairs: int) -> None:
    free, some = (make(name, head_width=8, rope_fraction=p) for p in (0.0, fraction))
    assert some.cost(9).elementwise - free.cost(9).elementwise == 3 * 9 * (4 + 2) * 2 * pairs
    assert some.flops(9) == free.flops(9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rope_fraction": 1.5}, "rope_fraction must be between"),
        ({"rope_drop": "high"}, "drops nothing"),
        ({"rope_fraction": 0.5, "rope_drop": "hihg"}, "did you mean 'high'"),
    ],
    ids=str,
)
def test_impossible_fractions_are_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    config = type(make("gemma1_attention").config)
    with pytest.raises(ConfigError, match=message) as error:
        config.from_options({"width": 8, "heads": 2, **options})
    assert "\n" not in str(error.value)
