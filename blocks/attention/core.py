"""The one place where scores, softmax and values meet; every attention mixer calls ``attend``.

Legend: B batch, T queries, S keys, H query heads, K key/value heads (H = K·G), C head width.
Order as in Gemma 2 and 3: scale, soft-cap, mask, softmax, values. The cap comes BEFORE the mask: capping
afterwards would turn a masked -inf into -cap and let every future key in.
The backend is chosen in backends.py; the cost does not depend on it: the pairs the mask allows
are charged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from blocks.attention.backends import choose
from blocks.attention.flex import flex
from blocks.attention.local import folded_attention
from blocks.attention.masks import Radius, Span, visible
from blocks.attention.tiled import tiled_attention
from blocks.dispatch import log_once
from blocks.errors import ConfigError
from blocks.norm import widened

# recorder(run, q, k, v, pairs) -> run(q, k, v): who counts, and charges ``pairs`` instead of the operators
# inside ``run``
Recorder = Callable[[Callable[[Tensor, Tensor, Tensor], Tensor], Tensor, Tensor, Tensor, int], Tensor]
ROWS = 512  # queries per piece when a mask is counted: a piece of a long row stays small


class AttentionRecorder:
    """The counter of FLOPs, None unless one is set.

    One thread only: torch.compile cannot trace a ContextVar.
    """

    def __init__(self) -> None:
        self.current: Recorder | None = None

    def set(self, recorder: Recorder | None) -> Recorder | None:
        """Returns what ``reset`` puts back."""
        previous, self.current = self.current, recorder
        return previous

    def reset(self, previous: Recorder | None) -> None:
        self.current = previous


attention_recorder = AttentionRecorder()


@lru_cache(maxsize=256)
def mask_pairs(
    queries: int, keys: int, *, causal: bool, window: int | None, radius: Radius | None, offset: int
) -> int:
    """(query, key) pairs of one head and sequence: the True entries of the mask itself, no formula, counted
    on the CPU.
    """
    pairs = 0
    for first in range(0, queries, ROWS):
        rows = min(ROWS, queries - first)
        mask = visible(
            rows,
            keys,
            causal=causal,
            window=window,
            radius=radius,
            offset=offset + first,
            device=torch.device("cpu"),
        )
        pairs += rows * keys if mask is None else int(mask.sum())
    return pairs


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    radius: Radius | None = None,
    softcap: float | None = None,
    segments: Tensor | None = None,
    offset: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Softmax attention with grouped key/value heads.

    q (B, H, T, C), k and v (B, K, S, C), query head h reads key/value head h // (H/K) -> (B, H, T, C), dtype
    of q. ``window``, ``radius``: see blocks.attention.masks. ``softcap`` c: scores become c·tanh(scores / c).
    ``segments`` (B, T): documents never meet, output at padding is zero. ``offset``: keys before the first
    query (decoding); segments need offset 0. ``backend``: None lets blocks.attention.backends choose. Softmax
    and sums are float32 or wider.
    Raises: ConfigError for segments together with cached keys, or a backend that is unknown or cannot compute
    this.
    """
    tokens, keys = q.shape[2], k.shape[2]
    if segments is not None and (offset != 0 or tokens != keys):
        raise ConfigError(
            "attention: segments describe whole rows; decode documents in separate rows instead"
        )

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _attend(q, k, v, scale, causal, window, radius, softcap, segments, offset, backend)

    if attention_recorder.current is None:
        return run(q, k, v)
    # segments are left out: the canonical cost is that of whole rows
    pairs = mask_pairs(tokens, keys, causal=causal, window=window, radius=radius, offset=offset)
    return attention_recorder.current(run, q, k, v, pairs)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    causal: bool,
    window: int | None,
    radius: Radius | None,
    softcap: float | None,
    segments: Tensor | None,
    offset: int,
    backend: str | None,
) -> Tensor:
    tokens, keys = q.shape[2], k.shape[2]
    span = Span.of(causal=causal, window=window, radius=radius, offset=offset)
    choice = choose(
        tokens,
        keys,
        span,
        softcap,
        segments is not None,
        head_width=q.shape[-1],
        dtype=q.dtype,
        device=q.device,
        backend=backend,
    )
    log_once("attention", choice)
    if choice.implementation == "folded":
        y = folded_attention(q, k, v, span=span, scale=scale, segments=segments)
    elif choice.implementation == "tiled":
        y = tiled_attention(q, k, v, span=span, scale=scale, softcap=softcap, segments=segments)
    elif choice.implementation == "flex":
        y = flex(q, k, v, span=span, scale=scale, softcap=softcap, segments=segments)
    else:
        flagged = choice.implementation == "fused" and span.within(tokens, keys).lookahead is not None
        mask = None
        if choice.implementation == "masked":
            mask = visible(
                tokens,
                keys,
                causal=causal,
                window=window,
                radius=radius,
                offset=offset,
                segments=segments,
                device=q.device,
            )
        y = masked_softmax(q, k, v, mask, scale=scale, softcap=softcap, flagged=flagged)
    if segments is not None:
        y = y.masked_fill((segments == 0)[:, None, :, None], 0)
    return y


def masked_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    scale: float,
    softcap: float | None,
    flagged: bool = False,
) -> Tensor:
    """Attention under a mask (B or 1, 1, T or 1, S) of the caller's, without an empty row.

    ``flagged``: plain causal instead.

    The naive twin of every other backend: all pairs are computed and, with a cap, kept for the backward pass.
    """
    if softcap is not None:
        return _capped(q, k, v, mask, scale=scale, softcap=softcap)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=flagged, scale=scale, enable_gqa=grouped
    )


def _capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float, softcap: float) -> Tensor:
    """Written out because no fused operator of torch on every device takes a soft-cap."""
    wide = widened(q.dtype)
    kv_heads, groups = k.shape[1], q.shape[1] // k.shape[1]
    # the G query heads of a group are rows of one matmul: K and V are never repeated in memory
    q_BKRC = rearrange(q.to(wide), "b (k g) t c -> b k (g t) c", k=kv_heads)
    scores_BKRS = q_BKRC @ k.to(wide).transpose(-1, -2) * scale
    capped_BKRS = softcap * torch.tanh(scores_BKRS / softcap)
    scores_BKGTS = rearrange(capped_BKRS, "b k (g t) s -> b k g t s", g=groups)
    if mask is not None:
        scores_BKGTS = scores_BKGTS.masked_fill(~mask[:, :, None], float("-inf"))
    weights_BKRS = rearrange(scores_BKGTS.softmax(dim=-1), "b k g t s -> b k (g t) s")
    return rearrange(weights_BKRS @ v.to(wide), "b k (g t) c -> b (k g) t c", g=groups).to(q.dtype)
