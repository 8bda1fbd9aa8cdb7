"""Window, soft-cap and documents on CUDA.

Torch's FlexAttention, a fused kernel generated for the mask and the cap.

Legend: B batch, T queries, S keys, H query heads, K key/value heads, C head width.
Source: torch.nn.attention.flex_attention. Tiles of 128 x 128 pairs without a single allowed one are skipped,
so a window costs its window. On a processor it runs forward only and slowly: there it is the subject of
tests, never chosen.
Imported on use: the module takes a second to load.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from blocks.attention.masks import Span
from blocks.segments import runs

LEAST_HEAD_WIDTH = 16  # what the generated kernel's matrix instructions need
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def flex_serves(*, head_width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """True where the generated kernel runs forward and backward."""
    return (
        device.type == "cuda"
        and head_width >= LEAST_HEAD_WIDTH
        and dtype in DTYPES
        and find_spec("triton") is not None
    )


def flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    span: Span,
    scale: float,
    softcap: float | None = None,
    segments: Tensor | None = None,
) -> Tensor:
    """See ``blocks.attention.core.attend``.

    Compiled on first use per shape on CUDA, interpreted elsewhere.
    """
    queries, keys = q.shape[2], k.shape[2]
    span = span.within(queries, keys)
    if segments is None:
        mask = _span_mask(queries, keys, span, q.device)
    else:
        mask = _block_mask(_allowed(span, runs(segments)), len(q), queries, keys, q.device)
    score_mod = None if softcap is None else _capped(softcap)
    attention = _kernel(q.is_cuda and not torch.compiler.is_compiling())
    y: Tensor = attention(
        q, k, v, score_mod=score_mod, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return y


def _allowed(span: Span, run: Tensor | None) -> Callable[..., Tensor]:
    def allowed(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        mask = j >= 0
        if span.lookahead is not None:
            mask = mask & (j <= i + span.offset + span.lookahead)
        if span.lookback is not None:
            mask = mask & (j >= i + span.offset - span.lookback)
        if run is not None:
            mask = mask & (run[b, i] == run[b, j])
        return mask

    return allowed


def _capped(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def _span_mask(queries: int, keys: int, span: Span, device: torch.device) -> Any:
    """None when every pair is allowed. Kept between calls, because every layer and step asks for the same
    few.
    """
    if span.lookback is None and span.lookahead is None:
        return None
    if torch.compiler.is_compiling():
        return _block_mask(_allowed(span, None), None, queries, keys, device)
    return _kept_span_mask(queries, keys, span, device)


@cache
def _kept_span_mask(queries: int, keys: int, span: Span, device: torch.device) -> Any:
    return _block_mask(_allowed(span, None), None, queries, keys, device)


def _block_mask(
    allowed: Callable[..., Tensor], batch: int | None, queries: int, keys: int, device: torch.device
) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(allowed, batch, None, queries, keys, device=device)


@cache
def _kernel(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Any] = flex_attention
    return torch.compile(kernel, dynamic=False) if compiled else kernel
