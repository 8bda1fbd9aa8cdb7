"""Attention by tiles of query rows, each against only the keys it may see.

Soft-cap, windows and documents on a processor.

Legend: B batch, T queries, S keys, H query heads, K key/value heads (H = K·G), C head width, R rows of a
tile, N keys of a tile.
A mask over T x S computes every pair and keeps T x S numbers for the backward pass. Here a tile's scores live
only while the tile is worked on (a few MiB, in cache), pairs outside its span are never computed, and the
backward pass recomputes the scores instead of keeping them: time O(pairs + T·R), memory O(T). A causal row
skips half of its pairs, a window the rest.
Source: recomputation as in FlashAttention (arXiv 2205.14135 §3.1); the order of operations is Gemma 2's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from blocks.attention.masks import Span
from blocks.norm import widened
from blocks.segments import runs

# scores of all heads in one tile: 2 MiB in float32; at 4 MiB the tensors of a tile leave the cache, 1.15 x
# slower
TILE_SCORES = 2**19
LEAST_ROWS, MOST_ROWS = 32, 64  # fewer starve the matmul, more compute too many pairs that the mask drops
SIGMOID_CAP = 64.0  # largest cap whose tanh may be taken from a sigmoid, see Cap


class Cap(NamedTuple):
    """c·tanh(s/c) as ``outer``·u + a constant, u = f(``inner``·s); the constant leaves a softmax unchanged.

    2c·sigmoid(2s/c) = c·tanh(s/c) + c, and torch's sigmoid runs five times faster than its tanh on a
    processor. Rounding u near 1/2 costs 2c·2^-25 in a float32 score, 4e-6 at c = 64; above that f is tanh.
    """

    inner: float
    outer: float
    sigmoid: bool

    @staticmethod
    def of(softcap: float) -> Cap:
        return (
            Cap(2 / softcap, 2 * softcap, True)
            if softcap <= SIGMOID_CAP
            else Cap(1 / softcap, softcap, False)
        )

    def bend(self, scores: Tensor) -> Tensor:
        """f, in place."""
        return scores.sigmoid_() if self.sigmoid else scores.tanh_()

    def slope(self, u: Tensor) -> Tensor:
        """Derivative of the capped score by the uncapped one."""
        return (
            torch.addcmul(u, u, u, value=-1).mul_(4)
            if self.sigmoid
            else torch.addcmul(torch.ones_like(u), u, u, value=-1)
        )


class Tile(NamedTuple):
    """Query rows first..last and the keys start..stop that at least one of them sees."""

    first: int
    last: int
    start: int
    stop: int


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    span: Span,
    scale: float,
    softcap: float | None = None,
    segments: Tensor | None = None,
) -> Tensor:
    """See ``blocks.attention.core.attend``; q (B, H, T, C), k and v (B, K, S, C) -> (B, H, T, C).

    Precision: float32, or float64 for float64 input. One operator, opaque to compilers; no second
    derivatives.
    """
    wide = widened(q.dtype)
    run = None if segments is None else runs(segments)
    limits = (
        -1 if span.lookback is None else span.lookback,
        -1 if span.lookahead is None else span.lookahead,
        span.offset,
    )
    y = _tiled_attention(q.to(wide), k.to(wide), v.to(wide), run, scale, softcap or 0.0, *limits)
    return y.to(q.dtype)


def tiles(queries: int, keys: int, heads: int, span: Span) -> Iterator[Tile]:
    """Tiles of equally many rows (the last may have fewer), in order."""
    reach = (
        keys
        if span.lookback is None or span.lookahead is None
        else min(keys, span.lookback + span.lookahead + 1)
    )
    rows = LEAST_ROWS
    while rows < MOST_ROWS and 2 * rows * heads * reach <= TILE_SCORES:
        rows *= 2
    for first in range(0, queries, rows):
        last = min(first + rows, queries)
        start = 0 if span.lookback is None else max(0, span.offset + first - span.lookback)
        stop = keys if span.lookahead is None else min(keys, span.offset + last + span.lookahead)
        yield Tile(first, last, start, stop)


def hide(scores: Tensor, tile: Tile, span: Span, run: Tensor | None) -> None:
    """-inf, in place, on the pairs of scores (K, G, R, N) that the span or the documents ``run`` (T,) forbid.

    Only the columns on the rim of a tile hold such pairs: key j of the tile is out of row r's reach when
    j < r - late (too far behind) or j >= r + early (too far ahead).
    """
    rows, keys = scores.shape[-2:]
    if span.lookback is not None:
        late = tile.start - (span.offset + tile.first - span.lookback)
        width = min(rows - 1 - late, keys)
        if width > 0:
            scores[..., :width] += scores.new_full((rows, width), float("-inf")).tril_(-1 - late)
    if span.lookahead is not None:
        early = span.offset + tile.first + span.lookahead + 1 - tile.start
        if early < keys:
            scores[..., early:] += scores.new_full((rows, keys - early), float("-inf")).triu_()
    if run is not None:
        differs = run[tile.first : tile.last, None] != run[None, tile.start : tile.stop]
        scores += scores.new_zeros((rows, keys)).masked_fill_(differs, float("-inf"))


def attend_by_tiles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    run: Tensor | None,
    scale: float,
    softcap: float,
    lookback: int,
    lookahead: int,
    offset: int,
) -> Tensor:
    """Numbers in place of None (softcap 0, a limit of -1), as an operator's signature wants them."""
    span, heads = _span(lookback, lookahead, offset), q.shape[1]
    y = q.new_empty(q.shape)
    for b in range(len(q)):
        for tile in tiles(q.shape[2], k.shape[2], heads, span):
            keys, values = k[b, :, tile.start : tile.stop], v[b, :, tile.start : tile.stop]
            weights, _ = _weights(
                _rows(q, b, tile, k.shape[1]),
                keys,
                tile,
                span,
                None if run is None else run[b],
                scale,
                softcap,
            )
            y[b, :, tile.first : tile.last] = _heads(weights @ values, heads)
    return y


def gradients_by_tiles(
    dy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    run: Tensor | None,
    scale: float,
    softcap: float,
    lookback: int,
    lookahead: int,
    offset: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; the weights are computed a second time."""
    span, heads, kv_heads = _span(lookback, lookahead, offset), q.shape[1], k.shape[1]
    dq, dk, dv = q.new_empty(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape)
    for b in range(len(q)):
        for tile in tiles(q.shape[2], k.shape[2], heads, span):
            columns = (b, slice(None), slice(tile.start, tile.stop))
            rows, d_rows = _rows(q, b, tile, kv_heads), _rows(dy, b, tile, kv_heads)
            weights, slope = _weights(
                rows, k[columns], tile, span, None if run is None else run[b], scale, softcap
            )
            dv[columns] += weights.mT @ d_rows
            d_scores = d_rows @ v[columns].mT
            d_scores -= (d_scores * weights).sum(dim=-1, keepdim=True)
            d_scores *= weights.mul_(scale)
            if slope is not None:
                d_scores *= slope
            dk[columns] += d_scores.mT @ rows
            dq[b, :, tile.first : tile.last] = _heads(d_scores @ k[columns], heads)
    return dq, dk, dv


def _weights(
    rows: Tensor, keys: Tensor, tile: Tile, span: Span, run: Tensor | None, scale: float, softcap: float
) -> tuple[Tensor, Tensor | None]:
    """Softmax weights (K, G·R, N) of one tile, and the slope of the cap there."""
    cap = Cap.of(softcap) if softcap else None
    scores = (rows * (scale * cap.inner if cap else scale)) @ keys.mT
    slope = None
    if cap:
        slope = cap.slope(cap.bend(scores))
        scores *= cap.outer
    hide(rearrange(scores, "k (g r) n -> k g r n", r=tile.last - tile.first), tile, span, run)
    return scores.softmax(dim=-1), slope


def _rows(x: Tensor, b: int, tile: Tile, kv_heads: int) -> Tensor:
    """The G heads that share keys are rows of one matmul: keys and values are never repeated in memory."""
    return rearrange(x[b, :, tile.first : tile.last], "(k g) r c -> k (g r) c", k=kv_heads)


def _heads(x: Tensor, heads: int) -> Tensor:
    return rearrange(x, "k (g r) c -> (k g) r c", g=heads // x.shape[0])


def _span(lookback: int, lookahead: int, offset: int) -> Span:
    return Span(
        lookback=None if lookback < 0 else lookback,
        lookahead=None if lookahead < 0 else lookahead,
        offset=offset,
    )


# One operator: the loop over tiles works in place and keeps nothing, which autograd would undo and a compiler
# unroll.

_tiled_attention = torch.library.custom_op("blocks::tiled_attention", attend_by_tiles, mutates_args=())
_tiled_attention_backward = torch.library.custom_op(
    "blocks::tiled_attention_backward", gradients_by_tiles, mutates_args=()
)


@_tiled_attention.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return q.new_empty(q.shape)


@_tiled_attention_backward.register_fake
def _(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, run, *ctx.numbers = inputs
    ctx.save_for_backward(q, k, v, run)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return (
        *_tiled_attention_backward(dy, *ctx.saved_tensors, *ctx.numbers),
        None,
        *(None for _ in ctx.numbers),
    )


_tiled_attention.register_autograd(_backward, setup_context=_keep)


@register_flop_formula(torch.ops.blocks.tiled_attention)
def _flops(q_shape: torch.Size, k_shape: torch.Size, v_shape: torch.Size, *sizes: Any, **__: Any) -> int:
    """The pairs the span allows, not those the tiles compute."""
    b, h, t, c = q_shape
    lookback, lookahead, offset = sizes[-3:]
    return 2 * (c + v_shape[-1]) * b * h * _span(lookback, lookahead, offset).pairs(t, k_shape[2])


@register_flop_formula(torch.ops.blocks.tiled_attention_backward)
def _backward_flops(dy_shape: torch.Size, *sizes: Any, **__: Any) -> int:
    return 2 * _flops(*sizes)
