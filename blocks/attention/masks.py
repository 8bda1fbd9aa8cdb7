"""Who may attend to whom, as a mask and as a number of pairs.

Legend: B batch, T queries, S keys.
``window`` w (causal): w keys INCLUDING the query's own, i.e. keys q-w+1 .. q, as in all Gemma references.
``radius`` r (bidirectional): keys q-r .. q+r. Five conventions exist for encoders, hence the two names.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.errors import ConfigError
from blocks.segments import runs


def check_span(where: str, *, causal: bool, window: int | None, radius: int | None) -> None:
    """Raises: ConfigError unless the limit on distance is named for the direction it belongs to and is in range."""
    if causal and radius is not None:
        raise ConfigError(f"{where}: radius is for bidirectional attention; give window (keys including self) or causal: false")
    if not causal and window is not None:
        raise ConfigError(f"{where}: window is for causal attention; give radius (keys on each side) or causal: true")
    if window is not None and window < 1:
        raise ConfigError(f"{where}: window must be at least 1 (the token itself) or null, got {window}")
    if radius is not None and radius < 0:
        raise ConfigError(f"{where}: radius must be at least 0 or null, got {radius}")


def attended_pairs(tokens: int, *, causal: bool = True, window: int | None = None, radius: int | None = None) -> int:
    """Number of (query, key) pairs one sequence of ``tokens`` tokens really needs, exact."""
    if causal:
        w = tokens if window is None else min(window, tokens)
        return w * (w + 1) // 2 + (tokens - w) * w
    r = tokens - 1 if radius is None else min(radius, tokens - 1)
    if tokens < 1:
        return 0
    return tokens + 2 * (r * tokens - r * (r + 1) // 2)


def visible(
    queries: int,
    keys: int,
    *,
    causal: bool,
    window: int | None = None,
    radius: int | None = None,
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
    if radius is not None and radius >= max(latest_query, keys - 1):
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
        allowed = allowed & ((q - k).abs() <= radius)
    mask = allowed[None, None]
    if segments is None:
        return mask
    if offset != 0 or queries != keys:
        raise ConfigError("attention: segments describe whole rows; decode documents in separate rows instead")
    run = runs(segments)
    together = (run[:, :, None] == run[:, None, :]) & (run > 0)[:, None, :]
    return (mask & together[:, None]) | (k == q)
