"""Who may attend to whom, as a mask and as a number of pairs.

Legend: B batch, T queries, S keys.
``window`` w (causal): w keys INCLUDING the query's own, i.e. keys q-w+1 .. q, as in all Gemma references.
``radius`` r (bidirectional): keys q-r .. q+r; a pair (l, r): keys q-l .. q+r. Five conventions exist for encoders, hence
the two names; ``sides_of_width`` is the one of T5Gemma 2, which counts all keys and so is lopsided for an even number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.errors import ConfigError
from blocks.segments import runs

Radius = int | tuple[int, int]  # keys on each side, or (before, after)


def sides(radius: Radius) -> tuple[int, int]:
    """(keys before, keys after) the query's own."""
    return (radius, radius) if isinstance(radius, int) else radius


def sides_of_width(keys: int) -> Radius:
    """The radius of a band of ``keys`` keys in all, self included: (keys+1)//2 - 1 before, keys//2 after (T5Gemma 2)."""
    before, after = (keys + 1) // 2 - 1, keys // 2
    return before if before == after else (before, after)


def check_span(where: str, *, causal: bool, window: int | None, radius: Radius | None) -> None:
    """Raises: ConfigError unless the limit on distance is named for the direction it belongs to and is in range."""
    if causal and radius is not None:
        raise ConfigError(f"{where}: radius is for bidirectional attention; give window (keys including self) or causal: false")
    if not causal and window is not None:
        raise ConfigError(f"{where}: window is for causal attention; give radius (keys on each side) or causal: true")
    if window is not None and window < 1:
        raise ConfigError(f"{where}: window must be at least 1 (the token itself) or null, got {window}")
    if isinstance(radius, tuple) and len(radius) != 2:
        raise ConfigError(f"{where}: radius must be one number or two (keys before, keys after), got {radius}")
    if radius is not None and min(sides(radius)) < 0:
        raise ConfigError(f"{where}: radius must be at least 0 or null, got {radius}")


def attended_pairs(tokens: int, *, causal: bool = True, window: int | None = None, radius: Radius | None = None) -> int:
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

    Query i stands at position ``offset + i``, key j at position j. ``segments`` (B, T) needs T = S, offset 0; a padding
    position sees itself alone, so no row is empty (an empty softmax row is NaN in some backends); its output must be
    zeroed by the caller. Depends on sizes and segments only, never on values.
    """
    latest_query = offset + queries - 1
    if window is not None and window > latest_query:
        window = None
    if radius is not None and sides(radius)[0] >= latest_query and sides(radius)[1] >= keys - 1:
        radius = None
    future = causal and keys - 1 > offset  # the first query is the one with most keys after it
    if not future and window is None and radius is None and segments is None:
        return None

    q = torch.arange(offset, offset + queries, device=device)[:, None]
    k = torch.arange(keys, device=device)[None, :]
    allowed = torch.ones((queries, keys), dtype=torch.bool, device=device)
    if causal:
        allowed = allowed & (k <= q)
    if window is not None:
        allowed = allowed & (k > q - window)
    if radius is not None:
        before, after = sides(radius)
        allowed = allowed & (k >= q - before) & (k <= q + after)
    mask = allowed[None, None]
    if segments is None:
        return mask
    if offset != 0 or queries != keys:
        raise ConfigError("attention: segments describe whole rows; decode documents in separate rows instead")
    run = runs(segments)
    together = (run[:, :, None] == run[:, None, :]) & (run > 0)[:, None, :]
    return (mask & together[:, None]) | (k == q)
