"""Scores of tokens, with a bounded amount of logits in memory at a time.

Legend: B batch, T tokens, D width, V vocabulary, N rows (tokens of one slice).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# tokens of a batch; on a CPU 8 windows of 256 score in 0.87 (gemma3) and 0.98 (m2_gpt) of the time of 32 at 1M parameters
GPU_TOKENS, CPU_TOKENS = 8192, 2048
LOGIT_BYTES = 1 << 29  # float32 logits of one slice; log-softmax holds as much again


def token_nats(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target under a decoder.

    Inputs (B, T), targets (B, T) int64 -> nats (B, T), float32 or wider.

    Up to ``LOGIT_BYTES`` of logits are computed in one piece, beyond that in slices of tokens.
    """
    decoder: Any = model  # a Decoder: hidden states, and a table that turns them into logits
    hidden, head = decoder.hidden(inputs), decoder.embedding
    rows = slice_rows(head.config.vocabulary)
    if targets.numel() <= rows:
        return _nats(head.logits(hidden).flatten(0, 1), targets.flatten()).view_as(targets)
    nats = [_nats(head.logits(h), t) for h, t in slices(hidden.flatten(0, 1), targets.flatten(), rows)]
    return torch.cat(nats).view_as(targets)


def windows_at_once(tokens: int, vocabulary: int) -> int:
    """Windows of ``tokens`` tokens in a scoring batch; no score depends on it.

    Few enough for the processor's cache, and for their logits to fill ``LOGIT_BYTES`` at most.
    """
    most = GPU_TOKENS if torch.cuda.is_available() else CPU_TOKENS
    return max(1, min(most, slice_rows(vocabulary)) // tokens)


def slice_rows(vocabulary: int) -> int:
    """How many tokens are scored at once: their float32 logits fill ``LOGIT_BYTES``."""
    return max(1, LOGIT_BYTES // (4 * vocabulary))


def slices(hidden_ND: Tensor, targets_N: Tensor, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Both tensors in pieces of at most ``rows`` rows."""
    yield from zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _nats(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(at_least_float32(logits_NV), targets_N, reduction="none")
