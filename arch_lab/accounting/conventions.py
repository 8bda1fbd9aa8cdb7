"""Training FLOPs per token as other papers count them, for readers who compare with those papers only.

Legend: N parameters, V vocabulary, D width, T tokens of the context, H heads, h head width, w window.
The rules differ by -73 % to +75 % on one and the same model, mostly by which parameters N means; none of them
is what a comparison here is matched on. Architectures without attention scores have no score term: none is
invented for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from blocks.attention.masks import sides


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Sums over the attention layers: H·h·min(w, T), H·h·T, and H·T."""

    windowed: int = 0
    full: int = 0
    heads: int = 0


def scores(mixers: Iterable[Any], tokens: int) -> Scores:
    """From the configurations of a model's sequence mixers; those without heads add nothing."""
    windowed = full = heads = 0
    for config in mixers:
        h = getattr(config, "channels", None) or getattr(config, "head_width", None) or 0
        n = getattr(config, "heads", 0)
        radius, window = getattr(config, "radius", None), getattr(config, "window", None)
        span = sum(sides(radius)) + 1 if radius is not None else window if window is not None else tokens
        windowed += n * h * min(span, tokens)
        full += n * h * tokens
        heads += n * tokens
    return Scores(windowed=windowed, full=full, heads=heads)


def conventions(*, non_embedding: int, total: int, table: int, scores: Scores) -> dict[str, float]:
    """``non_embedding``: N without embeddings and without a tied or untied output table; ``table``: V·D.

    palm: 6 (N + V·D) + 12 ΣH·h·min(w, T) (arXiv 2204.02311 app. B); six_nd: 6 N_total;
    kaplan: 6 N + 6 ΣH·h·T (2001.08361 table 1);
    chinchilla: embedding and logits 2·V·D each, softmax 3·H·T, scores in full, times 3 (2203.15556 app. F).
    """
    return {
        "palm": float(6 * (non_embedding + table) + 12 * scores.windowed),
        "six_nd": float(6 * total),
        "kaplan": float(6 * non_embedding + 6 * scores.full),
        "chinchilla": float(3 * (2 * non_embedding + 4 * table + 4 * scores.full + 3 * scores.heads)),
    }
