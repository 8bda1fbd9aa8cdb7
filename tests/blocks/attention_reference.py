"""Gemma's attention written out, query by query: what the blocks are compared with.

Legend: T tokens, H query heads, K key/value heads, C head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blocks.attention.gemma import GemmaAttention
from blocks.attention.gemma4 import Gemma4AttentionConfig
from blocks.registry import build


def make(name: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, **options: Any) -> GemmaAttention:
    """A small block with weights of order one, gains included, so that no part of it is idle."""
    torch.manual_seed(seed)
    block = build(name, **{"width": 12, "heads": 4, "kv_heads": 2, "head_width": 6, **options})
    assert isinstance(block, GemmaAttention)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(
                torch.randn_like(parameter)
                * (0.5 if parameter.dim() == 1 else parameter.shape[1] ** -0.5 * 1.5)
            )
    return block.to(dtype)


def tokens(t: int, *, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(batch, t, 12, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def sees(q: int, k: int, config: Any) -> bool:
    if config.causal:
        return k <= q and (config.window is None or q - k < config.window)
    return config.radius is None or abs(q - k) <= config.radius


def reference(block: GemmaAttention, x: Tensor) -> Tensor:
    """Query by query, head by head, from the block's weights alone."""
    config, c = block.config, block.config.channels
    group = config.heads // config.kv_heads
    softcap, factor = getattr(config, "softcap", None), getattr(config, "rope_factor", 1.0)
    fourth = isinstance(config, Gemma4AttentionConfig)
    frequency = (
        torch.tensor([config.rope_base ** (-2 * i / c) for i in range(c // 2)], dtype=x.dtype) / factor
    )
    n = int(config.rope_fraction * c // 2)
    # an angle of 0 turns nothing
    frequency[slice(n, None) if config.rope_drop == "low" else slice(0, c // 2 - n)] = 0

    def projected(name: str, h: int, position: int, row: Tensor) -> Tensor:
        """The head of a token, convolved with those of the tokens before it."""
        channels = slice(h * c, (h + 1) * c)
        weight = getattr(block, name).weight[channels]
        if block.short is None:
            return weight @ row[position]
        taps = getattr(block.short, name)[channels]
        lags = range(min(taps.shape[1], position + 1))
        return sum((taps[:, -1 - lag] * (weight @ row[position - lag]) for lag in lags), torch.zeros(()))

    def head(name: str, h: int, norm: Any, position: int, row: Tensor) -> Tensor:
        u = projected(name, h, position, row)
        if hasattr(norm, "weight"):
            gain = norm.weight if fourth else 1 + norm.weight
            u = u / (u.square().mean() + 1e-6).sqrt() * gain
        cos, sin = (position * frequency).cos(), (position * frequency).sin()
        a, b = u[: c // 2], u[c // 2 :]
        return torch.cat((a * cos - b * sin, b * cos + a * sin))

    def value(h: int, position: int, row: Tensor) -> Tensor:
        u = projected("key" if block.value is None else "value", h, position, row)
        return u / (u.square().mean() + 1e-6).sqrt() if fourth else u

    scale = config.query_scale or c**-0.5
    rows = []
    for row in x:
        out = []
        for t in range(len(row)):
            heads = []
            for h in range(config.heads):
                q = head("query", h, block.query_norm, t, row)
                keys = [s for s in range(len(row)) if sees(t, s, config)]
                scores = (
                    torch.stack([q @ head("key", h // group, block.key_norm, s, row) for s in keys]) * scale
                )
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                values = torch.stack([value(h // group, s, row) for s in keys])
                heads.append(scores.softmax(0) @ values)
            out.append(block.out.weight @ torch.cat(heads))
        rows.append(torch.stack(out))
    return torch.stack(rows)
