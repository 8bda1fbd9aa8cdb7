"""Attention whose last keys belong to a second sequence: the encoder's output, which every query may read.

Legend: B batch, T queries, N keys of the decoder itself, S memory tokens, H query heads, K key/value heads, C
head width.
Neither causality nor a window concerns the memory: it is finished before the first query stands. Who may read
what is said by ids: a query of document i reads memory of id i, so packed pairs never meet; where only one
side has ids, a query reads all of the memory that is not padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.attention.core import attention_recorder, mask_pairs, masked_softmax
from blocks.attention.masks import visible
from blocks.errors import ConfigError
from blocks.segments import check


def memory_mask(segments: Tensor | None, memory_segments: Tensor | None) -> Tensor | None:
    """(B, 1, T or 1, S), True where a query may read the memory; None when nothing is masked."""
    if memory_segments is None:
        return None
    real = (memory_segments != 0)[:, None, None, :]
    if segments is None:
        return real
    return real & (segments[:, None, :, None] == memory_segments[:, None, None, :])


def check_memory(x: Tensor, memory: Tensor, memory_segments: Tensor | None) -> None:
    """Raises: ConfigError unless there is one memory of at least one token for each row of x, with ids of its
    shape.
    """
    if memory.ndim != 3 or memory.shape[0] != x.shape[0] or memory.shape[1] < 1:
        raise ConfigError(
            f"memory must be ({x.shape[0]}, at least 1 token, width), got {tuple(memory.shape)}"
        )
    if memory_segments is not None:
        check(memory_segments, memory)


def without_padding(x: Tensor, segments: Tensor | None) -> Tensor:
    """x with zeros at padding, because 0 times infinity or NaN is NaN."""
    return x if segments is None else x.masked_fill((segments == 0)[..., None], 0)


def attend_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    memory: int,
    scale: float,
    readable: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    segments: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """One softmax over N keys of the decoder's own and then ``memory`` = S keys of another sequence.

    q (B, H, T, C), k and v (B, K, N + S, C) -> (B, H, T, C). The first N keys (N = 0: cross-attention) are
    seen causally, through ``window``, ``segments`` and ``offset`` as in ``blocks.attention.core.attend``; the
    others where ``readable`` (see ``memory_mask``) is True. Queries that see nothing give zeros, padding does
    too.
    """
    tokens, own_keys = q.shape[2], k.shape[2] - memory

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = _mask(tokens, own_keys, memory, readable, window, segments, offset, q.device)
        if own_keys or mask is None:
            y = masked_softmax(q, k, v, mask, scale=scale, softcap=softcap)
        else:
            # an empty softmax row is NaN: it sees everything and is then erased
            nothing = ~mask.any(dim=-1, keepdim=True)
            y = masked_softmax(q, k, v, mask | nothing, scale=scale, softcap=softcap).masked_fill(nothing, 0)
        return y if segments is None else y.masked_fill((segments == 0)[:, None, :, None], 0)

    if attention_recorder.current is None:
        return run(q, k, v)
    pairs = (
        mask_pairs(tokens, own_keys, causal=True, window=window, radius=None, offset=offset)
        if own_keys
        else 0
    )
    return attention_recorder.current(run, q, k, v, pairs + tokens * memory)


def _mask(
    tokens: int,
    own_keys: int,
    memory: int,
    readable: Tensor | None,
    window: int | None,
    segments: Tensor | None,
    offset: int,
    device: torch.device,
) -> Tensor | None:
    """(B or 1, 1, T, N + S), or None when every query sees every key."""
    if not own_keys:
        return readable
    span = visible(
        tokens, own_keys, causal=True, window=window, offset=offset, segments=segments, device=device
    )
    if span is None and readable is None:
        return None
    rows = max(1 if part_mask is None else part_mask.shape[0] for part_mask in (span, readable))
    parts = [
        torch.ones((1, 1, 1, size), dtype=torch.bool, device=device) if part_mask is None else part_mask
        for part_mask, size in ((span, own_keys), (readable, memory))
    ]
    return torch.cat([part_mask.expand(rows, 1, tokens, part_mask.shape[-1]) for part_mask in parts], dim=-1)
