"""The key/value cache: a true ring, exact across every wrap; what it holds, and which old states may be used again.

Legend: B batch, T tokens, D width, w window.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from blocks.attention.cache import KeyValueState, attend_to_all
from blocks.attention.core import attend
from blocks.attention.gemma import GemmaAttention
from blocks.contract import tensors_nbytes
from blocks.errors import ConfigError
from blocks.registry import build

W, D = 5, 12
LENGTHS = (W - 1, W, W + 1, 2 * W + 1, 3 * W + 2)
NAMES = ("gemma1_attention", "gemma2_attention", "gemma3_attention")
every_block = pytest.mark.parametrize("name", NAMES)
every_window = pytest.mark.parametrize("window", [None, W])
either_cache = pytest.mark.parametrize("reserve", [False, True], ids=["growing", "reserved"])


def make(
    name: str = "gemma3_attention", *, dtype: torch.dtype = torch.float64, **options: Any
) -> GemmaAttention:
    torch.manual_seed(0)
    block = build(name, **{"width": D, "heads": 4, "kv_heads": 2, "head_width": 6, **options})
    assert isinstance(block, GemmaAttention)
    return block.to(dtype).requires_grad_(False)


def tokens(t: int, *, batch: int = 3, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(batch, t, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(
        dtype
    )


def start(block: GemmaAttention, batch: int, reserve: bool, room: int = 64) -> KeyValueState:
    return block.reserve_state(batch, room) if reserve else block.init_state(batch, room)


def decoded(
    block: GemmaAttention, x: Tensor, sizes: list[int], *, reserve: bool
) -> tuple[Tensor, KeyValueState]:
    """Chunk by chunk; a chunk of one token is a step."""
    state, parts = start(block, len(x), reserve), []
    for chunk in x.split(sizes, dim=1):
        if chunk.shape[1] == 1:
            y, state = block.step(chunk[:, 0], state)
            parts.append(y[:, None])
        else:
            y, state = block.prefill(chunk, state)
            parts.append(y)
    return torch.cat(parts, 1), state


def cuts(t: int) -> list[list[int]]:
    """Steps alone; a prompt of every critical length, then steps; chunks of every critical length."""
    found = [[1] * t]
    for n in (W - 1, W, W + 1, 2 * W + 1):
        if n < t:
            found.append([n] + [1] * (t - n))
            found.append([n] * (t // n) + [t % n] * (t % n > 0))
    return found


@every_block
@every_window
@either_cache
def test_decoding_is_exact_across_every_wrap(name: str, window: int | None, reserve: bool) -> None:
    block = make(name, window=window)
    for t in LENGTHS:
        x = tokens(t)
        y = block(x)
        for sizes in cuts(t):
            # sums in another order: 1e-16 a term
            torch.testing.assert_close(
                decoded(block, x, sizes, reserve=reserve)[0],
                y,
                rtol=1e-11,
                atol=1e-12,
                msg=lambda m, s=sizes: f"{s}: {m}",
            )


@pytest.mark.parametrize("window", [1, 2])
@either_cache
def test_the_smallest_windows_decode_exactly(window: int, reserve: bool) -> None:
    block, x = make(window=window), tokens(9)
    for sizes in ([1] * 9, [3, 1, 1, 4], [9]):
        torch.testing.assert_close(
            decoded(block, x, sizes, reserve=reserve)[0], block(x), rtol=1e-11, atol=1e-12
        )


@every_window
@either_cache
def test_a_bfloat16_cache_decodes_what_the_parallel_forward_computes(
    window: int | None, reserve: bool
) -> None:
    block, x = make(dtype=torch.bfloat16, window=window), tokens(3 * W + 2, dtype=torch.bfloat16)
    y, state = decoded(block, x, [W + 1] + [1] * (2 * W + 1), reserve=reserve)
    assert state.k.dtype == torch.bfloat16
    # softmax in float32 on both paths; four roundings of 2^-9 between input and output
    assert (y - block(x)).abs().max() <= 2e-2 * block(x).abs().max()


def test_a_full_ring_keeps_its_memory_and_moves_nothing() -> None:
    """One step changes one slot, that of the token which left the window, in the very same tensor."""
    block, x = make(window=W), tokens(3 * W)
    _, state = block.prefill(x[:, : W + 2], block.init_state(3, 64))
    for t in range(W + 2, 3 * W):
        before, place = state.k.clone(), state.k.data_ptr()
        _, state = block.step(x[:, t], state)
        assert state.k.data_ptr() == place
        changed = (state.k != before).any(dim=3).any(dim=1).any(dim=0)
        assert changed.nonzero().flatten().tolist() == [t % W]


def test_the_entry_of_a_position_stands_in_its_slot_however_it_came_there() -> None:
    block, x = make(window=W), tokens(2 * W + 3)
    states = [
        decoded(block, x, sizes, reserve=False)[1]
        for sizes in ([1] * (2 * W + 3), [2 * W + 3], [3, W + 2, 1, 1, 1], [W, W + 3])
    ]
    for state in states[1:]:
        torch.testing.assert_close(state.k, states[0].k, rtol=1e-12, atol=1e-12)


@every_window
def test_a_growing_cache_holds_exactly_what_it_has_seen(window: int | None) -> None:
    block, x, seen = make(window=window), tokens(3 * W), 0
    state = block.init_state(3, 64)
    for size in (1, 2, 1, W + 1, 1, 4):
        _, state = block.prefill(x[:, seen : seen + size], state)
        seen += size
        entries = seen if window is None else min(seen, window)
        # keys and values, K = 2, C = 6, float64, three sequences
        assert tensors_nbytes(state) == 3 * block.state_bytes(seen) == 3 * 2 * 2 * 6 * 8 * entries


@every_window
@pytest.mark.parametrize("room", [W - 2, 4 * W])
def test_a_reserved_cache_holds_the_bytes_of_its_last_token_from_the_first_on(
    window: int | None, room: int
) -> None:
    block, x = make(window=window), tokens(room)
    state = block.reserve_state(3, room)
    places = state.k.data_ptr(), state.v.data_ptr()
    for t in range(room):
        assert tensors_nbytes(state) == 3 * block.state_bytes(room)
        _, state = block.step(x[:, t], state)
    assert (state.k.data_ptr(), state.v.data_ptr()) == places


def test_more_tokens_than_were_reserved_are_refused() -> None:
    block = make()
    _, state = block.prefill(tokens(4), block.reserve_state(3, 4))
    with pytest.raises(ConfigError, match="5 tokens do not fit the 4"):
        block.step(tokens(1)[:, 0], state)


# --- which states may be used again ---------------------------------------------------------------------------------


def go_on(block: GemmaAttention, state: KeyValueState, how: str) -> None:
    """Three tokens of another continuation."""
    other = tokens(3, seed=7)
    if how == "prefill":
        block.prefill(other, state)
        return
    for t in range(3):
        _, state = block.step(other[:, t], state)


def assert_still_good(block: GemmaAttention, state: KeyValueState) -> None:
    """``state``, made of tokens(2w), continues as the parallel forward does."""
    x = torch.cat((tokens(2 * W), tokens(2, seed=9)), dim=1)
    torch.testing.assert_close(
        block.prefill(x[:, 2 * W :], state)[0], block(x)[:, 2 * W :], rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize(("window", "how"), [(None, "prefill"), (None, "step"), (W, "prefill")])
def test_a_growing_state_is_still_good_after_it_was_continued(window: int | None, how: str) -> None:
    block = make(window=window)
    _, state = block.prefill(tokens(2 * W), block.init_state(3, 64))
    go_on(block, state, how)
    assert_still_good(block, state)


@pytest.mark.parametrize(
    ("window", "reserve", "how"),
    [
        (W, False, "step"),
        (W, True, "step"),
        (W, True, "prefill"),
        (None, True, "step"),
        (None, True, "prefill"),
    ],
)
def test_a_state_that_was_written_in_place_is_refused_and_its_copy_is_not(
    window: int | None, reserve: bool, how: str
) -> None:
    block = make(window=window)
    _, state = block.prefill(tokens(2 * W), start(block, 3, reserve))
    kept = copy.deepcopy(state)
    go_on(block, state, how)
    with pytest.raises(ConfigError, match="updated in place; use the returned state"):
        block.prefill(tokens(1), state)
    assert_still_good(block, kept)


# --- one query -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("softcap", [None, 0.8])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_one_token_attends_as_the_core_does_in_any_order_of_the_keys(
    softcap: float | None, kv_heads: int
) -> None:
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(3, h, n, 6, dtype=torch.float64) for h, n in ((4, 1), (kv_heads, 7), (kv_heads, 7))
    )
    expected = attend(q, k, v, scale=0.7, softcap=softcap, offset=6)
    order = torch.randperm(7)
    for keys, values in ((k, v), (k[:, :, order], v[:, :, order])):
        torch.testing.assert_close(
            attend_to_all(q, keys, values, scale=0.7, softcap=softcap), expected, rtol=1e-12, atol=1e-12
        )


def test_grouped_queries_read_shared_keys_without_a_copy_of_them() -> None:
    """Nothing as large as keys repeated for 8 query heads is allocated on the way."""
    q, k = torch.randn(1, 8, 1, 4), torch.randn(1, 1, 4096, 4)
    for softcap in (None, 2.0):
        with torch.profiler.profile(
            profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
        ) as profile:
            attend_to_all(q, k, k, scale=0.5, softcap=softcap)
        largest = max(event.cpu_memory_usage for event in profile.events())
        # scores of 8 heads are 8·4096 numbers; repeated keys would be 8·4096·4
        assert largest < 8 * 4096 * 4 * 4
