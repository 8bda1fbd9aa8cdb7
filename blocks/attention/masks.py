"""Attention masks, and the number of (query, key) pairs they allow.

Legend: B batch, T queries, S keys.
``window`` w (causal): w keys INCLUDING the query's own, i.e. keys q-w+1 .. q, as in all Gemma references.
``radius`` r (bidirectional): keys q-r .. q+r; a pair (l, r): keys q-l .. q+r. Five conventions exist for
encoders, hence the two names; ``sides_of_width`` is the one of T5Gemma 2, which counts all keys and so is
lopsided for an even number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blocks.errors import ConfigError
from blocks.segments import runs

Radius = int | tuple[int, int]  # keys on each side, or (before, after)


def sides(radius: Radius) -> tuple[int, int]:
    """(keys before, keys after) the query's own."""
    return (radius, radius) if isinstance(radius, int) else radius


def sides_of_width(keys: int) -> Radius:
    """The radius of a band of ``keys`` keys in all, self included.

    (keys+1)//2 - 1 before, keys//2 after (T5Gemma 2).
    """
    left, right = (keys + 1) // 2 - 1, keys // 2
    return left if left == right else (left, right)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Keys that a query at position p reaches: p-lookback .. p+lookahead, None = all.

    Query i stands at position ``offset + i``, key j at position j.
    """

    lookback: int | None = None
    lookahead: int | None = None
    offset: int = 0

    @staticmethod
    def of(*, causal: bool, window: int | None = None, radius: Radius | None = None, offset: int = 0) -> Span:
        """From the words of a configuration, see the module's legend."""
        if causal:
            return Span(lookback=None if window is None else window - 1, lookahead=0, offset=offset)
        left, right = (None, None) if radius is None else sides(radius)
        return Span(lookback=left, lookahead=right, offset=offset)

    def within(self, queries: int, keys: int) -> Span:
        """The same for these sizes, without the limits that no query feels."""
        lookback = (
            None
            if self.lookback is not None and self.lookback >= self.offset + queries - 1
            else self.lookback
        )
        lookahead = (
            None
            if self.lookahead is not None and self.offset + self.lookahead >= keys - 1
            else self.lookahead
        )
        if lookback == self.lookback and lookahead == self.lookahead:
            return self
        return Span(lookback=lookback, lookahead=lookahead, offset=self.offset)

    def pairs(self, queries: int, keys: int) -> int:
        """(query, key) pairs of one head and sequence."""
        positions = range(self.offset, self.offset + queries)
        first = (0 if self.lookback is None else max(0, p - self.lookback) for p in positions)
        last = (keys - 1 if self.lookahead is None else min(keys - 1, p + self.lookahead) for p in positions)
        return sum(max(0, b - a + 1) for a, b in zip(first, last, strict=True))


def check_span(owner: str, *, causal: bool, window: int | None, radius: Radius | None) -> None:
    """Raises: ConfigError unless the limit on distance is named for the direction it belongs to and is in
    range.
    """
    if causal and radius is not None:
        raise ConfigError(
            f"{owner}: radius is for bidirectional attention; give window (keys including self) or causal: "
            "false"
        )
    if not causal and window is not None:
        raise ConfigError(
            f"{owner}: window is for causal attention; give radius (keys on each side) or causal: true"
        )
    if window is not None and window < 1:
        raise ConfigError(f"{owner}: window must be at least 1 (the token itself) or null, got {window}")
    if isinstance(radius, tuple) and len(radius) != 2:
        raise ConfigError(
            f"{owner}: radius must be one number or two (keys before, keys after), got {radius}"
        )
    if radius is not None and min(sides(radius)) < 0:
        raise ConfigError(f"{owner}: radius must be at least 0 or null, got {radius}")


def attended_pairs(
    tokens: int, *, causal: bool = True, window: int | None = None, radius: Radius | None = None
) -> int:
    """Number of (query, key) pairs one sequence of ``tokens`` tokens really needs, exact."""
    if causal:
        w = tokens if window is None else min(window, tokens)
        return w * (w + 1) // 2 + (tokens - w) * w
    if tokens < 1:
        return 0
    reach = (min(side, tokens - 1) for side in sides(tokens - 1 if radius is None else radius))
    return tokens + sum(r * tokens - r * (r + 1) // 2 for r in reach)


def visible(
    queries: int,
    keys: int,
    *,
    causal: bool,
    window: int | None = None,
    radius: Radius | None = None,
    offset: int = 0,
    segments: Tensor | None = None,
    device: torch.device | None = None,
) -> Tensor | None:
    """Boolean mask (1 or B, 1, T, S), True where attention is allowed; None when nothing is masked.

    Query i stands at position ``offset + i``, key j at position j. ``segments`` (B, T) needs T = S, offset 0;
    a padding position sees itself alone, so no row is empty (an empty softmax row is NaN in some backends);
    its output must be zeroed by the caller. Depends on sizes and segments only, never on values.
    """
    span = Span.of(causal=causal, window=window, radius=radius, offset=offset).within(queries, keys)
    if span.lookback is None and span.lookahead is None and segments is None:
        return None
    mask = allowed(queries, keys, span, device=device)[None, None]
    if segments is None:
        return mask
    if offset != 0 or queries != keys:
        raise ConfigError(
            "attention: segments describe whole rows; decode documents in separate rows instead"
        )
    run = runs(segments)
    diagonal = torch.eye(queries, dtype=torch.bool, device=device)
    return (mask & (together(run, run) & (run > 0)[:, None, :])[:, None]) | diagonal


def allowed(queries: int, keys: int, span: Span, *, device: torch.device | None = None) -> Tensor:
    """(T, S) boolean: key j is within reach of query i."""
    q = torch.arange(span.offset, span.offset + queries, device=device)[:, None]
    k = torch.arange(keys, device=device)[None, :]
    mask = torch.ones((queries, keys), dtype=torch.bool, device=device)
    if span.lookahead is not None:
        mask = mask & (k <= q + span.lookahead)
    if span.lookback is not None:
        mask = mask & (k >= q - span.lookback)
    return mask


def together(of_queries: Tensor, of_keys: Tensor) -> Tensor:
    """(..., T, S) boolean from the run numbers (..., T) and (..., S): query and key stand in one document, or
    both in padding.
    """
    return of_queries[..., :, None] == of_keys[..., None, :]
