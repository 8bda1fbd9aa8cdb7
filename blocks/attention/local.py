"""Window attention at the price of its window: the row is cut into short query blocks, folded into the batch.

Legend: B batch, T queries, S keys, H query heads, K key/value heads, C head width, w keys in reach of one
query, R rows of a fold, n folds.
A fold is R neighbouring queries and the R + w - 1 keys that one of them sees; all folds are alike, so one
mask and one call of torch's fused attention serve them: R + w - 1 pairs a query instead of S, memory O(T·(1 +
w/R)). The keys of the folds overlap and are views of one tensor. Queries near an end of the row, whose reach
is cut short, are attended apart.
Source: the idea of block-local attention is old (arXiv 1904.10509); folding into the batch as in
unslothai/unsloth-zoo#861, there R = w, which computes twice the pairs that count.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from blocks.attention.masks import Span, allowed, together
from blocks.segments import runs


def fold_rows(reach: int) -> int:
    """R, the rows of a folded tile: few waste few pairs, many feed the kernel better.

    The kernel's own tiles are 32 rows high, 64 from 192 rows on.
    """
    return 64 if reach >= 128 else 32


def folded_attention(
    q: Tensor, k: Tensor, v: Tensor, *, span: Span, scale: float, segments: Tensor | None = None
) -> Tensor:
    """See ``blocks.attention.core.attend``: q (B, H, T, C), k and v (B, K, S, C) -> (B, H, T, C), any T and
    S.

    ``span`` must be limited on both sides. Cost: 4·H·C·T·(w + R - 1) FLOPs and a little more at the ends.
    """
    assert span.lookback is not None and span.lookahead is not None
    queries, keys = q.shape[2], k.shape[2]
    # of several rows in another memory order, the folds would not be views: each key would be copied 1 + w/R
    # times
    k, v = k.contiguous(), v.contiguous()
    reach = span.lookback + span.lookahead + 1
    rows = fold_rows(reach)
    # the first query whose reach is whole, and the number of folds before the first query whose reach is cut
    # at the end; queries left over join the head where there is no tail, which saves a call
    head = min(queries, max(0, span.lookback - span.offset))
    first_of_tail = max(head, min(queries, keys - span.lookahead - span.offset))
    folds = (first_of_tail - head) // rows
    body = folds * rows
    if body and first_of_tail == queries:
        head = queries - body
    run = None if segments is None else runs(segments)

    parts, pieces = [], q.split([head, body, queries - head - body], dim=2)
    for piece, first in zip(pieces, (0, head, head + body), strict=True):
        if piece.shape[2] == 0:
            continue
        start = max(0, span.offset + first - span.lookback)
        stop = min(keys, span.offset + first + piece.shape[2] + span.lookahead)
        keys_and_values = k[:, :, start:stop], v[:, :, start:stop]
        reach_of_piece = Span(
            lookback=span.lookback, lookahead=span.lookahead, offset=span.offset + first - start
        )
        ids = None if run is None else (run[:, first : first + piece.shape[2]], run[:, start:stop])
        if first == head and body:
            parts.append(_body(piece, *keys_and_values, rows=rows, reach=reach, scale=scale, ids=ids))
        else:
            parts.append(_edge(piece, *keys_and_values, span=reach_of_piece, scale=scale, ids=ids))
    # the fused kernel writes tokens before heads: joined in that order, the heads of a token lie side by side
    # for what follows
    return torch.cat([output.transpose(1, 2) for output in parts], dim=1).transpose(1, 2)


Ids = tuple[Tensor, Tensor] | None  # run numbers of the queries (B, T) and of the keys (B, S)


def _edge(q: Tensor, k: Tensor, v: Tensor, *, span: Span, scale: float, ids: Ids) -> Tensor:
    """A few queries with an ordinary mask; at the start of a causal row they see every key before them."""
    queries, keys = q.shape[2], k.shape[2]
    limits = span.within(queries, keys)
    flagged = ids is None and limits == Span(lookahead=0) and queries == keys
    mask = None
    if not flagged:
        mask = allowed(queries, keys, limits, device=q.device)[None, None]
        if ids is not None:
            mask = mask & together(*ids)[:, None]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=flagged, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _body(q: Tensor, k: Tensor, v: Tensor, *, rows: int, reach: int, scale: float, ids: Ids) -> Tensor:
    """Queries (B, H, n·R, C) whose reach is whole, over keys (B, K, n·R + w - 1, C)."""
    mask = allowed(
        rows, rows + reach - 1, Span(lookback=reach - 1, lookahead=0, offset=reach - 1), device=q.device
    )
    if ids is None:
        return _fold(q, k, v, mask[None, None], rows, reach, scale)
    # documents differ between the rows of a batch, and a mask that also ran over heads would be as large as
    # the scores
    outputs = []
    for b, (q_b, k_b, v_b) in enumerate(zip(q.unbind(), k.unbind(), v.unbind(), strict=True)):
        of_queries = rearrange(ids[0][b], "(n r) -> n r", r=rows)
        same = together(of_queries, ids[1][b].unfold(0, rows + reach - 1, rows))
        outputs.append(_fold(q_b[None], k_b[None], v_b[None], (mask & same)[:, None], rows, reach, scale))
    return torch.cat(outputs)


def _fold(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, rows: int, reach: int, scale: float) -> Tensor:
    """``mask`` (1 or n, 1, R, R + w - 1). Folds take the place of the batch and the batch that of heads: then
    views suffice.
    """
    batch = q.shape[0]
    folded = rearrange(q, "b h (n r) c -> n (b h) r c", r=rows)
    near_k, near_v = (
        rearrange(x.unfold(2, rows + reach - 1, rows), "b k n c s -> n (b k) s c") for x in (k, v)
    )
    y = F.scaled_dot_product_attention(
        folded, near_k, near_v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return rearrange(y, "n (b h) r c -> b h (n r) c", b=batch)
