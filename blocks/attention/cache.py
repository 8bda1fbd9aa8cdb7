"""The key/value cache of decoding.

What is kept, where the next entry goes, and which old states are still good.

Legend: B batch, H query heads, K key/value heads, C head width, w window, t tokens so far, m new tokens, N
reserved tokens.

| cache    | layer  | entries held              | a state that has been continued                      |
|----------|--------|---------------------------|------------------------------------------------------|
| growing  | global | t                         | still good: every continuation is a new tensor       |
| growing  | local  | min(t, w)                 | good after ``prefill``; spent by ``step`` (*)        |
| reserved | global | N, from the start         | spent: both write in place                           |
| reserved | local  | min(N, w), from the start | spent: both write in place                           |

(*) once the ring is full: it writes in place.

A spent state is refused, never silently wrong; ``copy.deepcopy`` a state before branching from it.
A full local cache is a true ring: the entry of position p stands in slot p mod w, so one step writes one slot
and moves nothing (a cache that rolls by one copies its whole window per token). Keys are stored rotated by
their absolute position, and a softmax does not ask for the order of its terms, so a step reads the ring as it
lies.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from blocks.errors import ConfigError
from blocks.norm import widened


@dataclass
class KeyValueState:
    """Rotated keys and values (B, K, entries, C) after ``position`` tokens; see the module's table."""

    k: Tensor
    v: Tensor
    position: int = 0
    window: int | None = None  # of the layer; None = global
    reserved: int | None = None  # N, or None for a growing cache
    spent: bool = field(default=False, compare=False)
    tails: tuple[Tensor, ...] = ()  # last inputs of a short convolution before the cache

    @property
    def ring(self) -> bool:
        """True when every slot is taken and the next entry replaces the oldest one."""
        return self.window is not None and self.k.shape[2] == self.window <= self.position

    @property
    def entries(self) -> tuple[Tensor, Tensor]:
        """The entries a query after the last token sees, in the order they lie in: views, not copies."""
        return self.k[:, :, : self.position], self.v[:, :, : self.position]


def empty_state(
    like: Tensor,
    *,
    batch: int,
    kv_heads: int,
    channels: int,
    window: int | None,
    reserve: int | None,
    tails: tuple[Tensor, ...] = (),
) -> KeyValueState:
    """Nothing seen yet, in dtype and on the device of ``like``. ``reserve``: tokens to make room for now,
    None = grow.
    """
    entries = 0 if reserve is None else min(reserve, window or reserve)
    k = torch.zeros((batch, kv_heads, entries, channels), device=like.device, dtype=like.dtype)
    return KeyValueState(k=k, v=torch.zeros_like(k), window=window, reserved=reserve, tails=tails)


def extend(
    state: KeyValueState, k: Tensor, v: Tensor, tails: tuple[Tensor, ...] = ()
) -> tuple[Tensor, Tensor, KeyValueState]:
    """m new entries (B, K, m, C) -> the keys and values their queries may see, oldest first, and the next
    state.

    The first new query still needs the last w-1 old keys: they are read before anything is overwritten, so a
    chunk longer than the window is exact. Raises: ConfigError for a spent state or more tokens than were
    reserved.
    """
    _check(state, k.shape[2])
    end = state.position + k.shape[2]
    if state.reserved is None:
        keys, values = _joined(state.k, k, state), _joined(state.v, v, state)
        grown = replace(
            state,
            k=_last(keys, state.window, end),
            v=_last(values, state.window, end),
            position=end,
            tails=tails,
        )
        return keys, values, grown
    # wraps: what is overwritten has to be read first
    if state.k.shape[2] == state.window and end > state.window:
        keys, values = _joined(state.k, k, state), _joined(state.v, v, state)
        return keys, values, _written(state, k, v, tails)
    next_state = _written(state, k, v, tails)
    return *next_state.entries, next_state


def push(state: KeyValueState, k: Tensor, v: Tensor, tails: tuple[Tensor, ...] = ()) -> KeyValueState:
    """One new entry (B, K, 1, C) -> the next state, whose ``entries`` are all the query may see. Raises:
    as ``extend``.
    """
    if state.reserved is None and not state.ring:
        return extend(state, k, v, tails)[2]
    _check(state, 1)
    return _written(state, k, v, tails)


def attend_to_all(q: Tensor, k: Tensor, v: Tensor, *, scale: float, softcap: float | None = None) -> Tensor:
    """Attention of one token, which sees every entry.

    q (B, H, 1, C), k and v (B, K, n, C) in any order -> (B, H, 1, C).

    The H/K query heads of a group are rows of one product, so keys are never repeated in memory. Sums in
    float32 or wider.
    """
    q_BKGC = rearrange(q, "b (k g) 1 c -> b k g c", k=k.shape[1])
    k, v = k.to(q.dtype), v.to(q.dtype)
    if softcap is None:
        y_BKGC = F.scaled_dot_product_attention(q_BKGC, k, v, scale=scale)
    else:
        wide = widened(q.dtype)
        scores_BKGS = softcap * torch.tanh(q_BKGC.to(wide) @ k.to(wide).mT * scale / softcap)
        y_BKGC = (scores_BKGS.softmax(dim=-1) @ v.to(wide)).to(q.dtype)
    return rearrange(y_BKGC, "b k g c -> b (k g) 1 c")


def _check(state: KeyValueState, new: int) -> None:
    if state.spent:
        raise ConfigError(
            "decoding: this state was updated in place; use the returned state, "
            "or copy.deepcopy the state before the call"
        )
    limit = state.reserved
    if limit is not None and state.position + new > limit:
        raise ConfigError(
            f"decoding: {state.position + new} tokens do not fit the {limit} this state was reserved for; "
            "reserve more"
        )


def _past(entries: Tensor, state: KeyValueState) -> Tensor:
    """What the next query still sees, oldest first: all, or the last min(t, w-1) entries."""
    if not state.ring:
        visible = entries[:, :, : state.position]
        return visible if state.window is None else visible[:, :, max(0, state.position - state.window + 1) :]
    # its slot is written next, and the next query no longer sees it
    oldest = state.position % entries.shape[2]
    return torch.cat((entries[:, :, oldest + 1 :], entries[:, :, :oldest]), dim=2)


def _joined(entries: Tensor, new: Tensor, state: KeyValueState) -> Tensor:
    return torch.cat((_past(entries, state), new.to(entries.dtype)), dim=2)


def _last(entries: Tensor, window: int | None, end: int) -> Tensor:
    """The last w of ``entries`` (in order, up to position ``end``), each in its slot of the ring.

    A copy, not a view that would keep a whole chunk alive behind the few entries that are counted.
    """
    if window is None or end <= window:
        return entries
    return entries[:, :, -window:].roll(end % window, dims=2)


def _written(state: KeyValueState, k: Tensor, v: Tensor, tails: tuple[Tensor, ...]) -> KeyValueState:
    """In place: the last of the new entries that there is room for, each in its slot.

    Marks ``state`` spent.
    """
    slots, end = state.k.shape[2], state.position + k.shape[2]
    first = max(state.position, end - slots)
    if end - first == 1:
        # no index tensor for a single step
        slots_written: slice | Tensor = slice(first % slots, first % slots + 1)
    else:
        slots_written = torch.arange(first, end, device=k.device) % slots
    state.k[:, :, slots_written] = k[:, :, first - end :].to(state.k.dtype)
    state.v[:, :, slots_written] = v[:, :, first - end :].to(state.v.dtype)
    state.spent = True
    return replace(state, position=end, spent=False, tails=tails)
