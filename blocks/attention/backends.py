"""The rule that selects the implementation of an attention, and its reason.

Legend: T queries, S keys, C head width.

| backend | is                                                             | file      |
|---------|----------------------------------------------------------------|-----------|
| fused   | torch's scaled_dot_product_attention without a mask tensor     | core.py   |
| masked  | the same under a T x S mask; written out where there is a cap  | core.py   |
| folded  | the same over short blocks of queries and the keys near them   | local.py  |
| tiled   | rows of queries against the keys they may see, nothing kept    | tiled.py  |
| flex    | FlexAttention's generated kernel                               | flex.py   |

All of them compute one function; tests hold each to ``masked``, which is also called "reference". Requests
and the log of decisions: ``blocks.dispatch``. Values never enter a decision, so a compiler can trace it.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from blocks.attention.flex import flex_serves
from blocks.attention.local import fold_rows
from blocks.attention.masks import Radius, Span
from blocks.dispatch import Choice, override
from blocks.errors import ConfigError, did_you_mean

Backend = Literal["fused", "masked", "folded", "tiled", "flex"]
# Measured forward + backward in float32 on one core (4 heads on 2, C 64, batch 1 to 8); see
# docs/attention.md.
# decoding: so few rows skip no pairs, and an operator of ours costs more to call than they cost
FEW_QUERIES = 16
SHORT_KEYS = 256  # up to here one dense mask is as fast as anything
# from here folds and tiles win or draw whatever the window, and the dense mask's T x S memory starts to show
LONG = 512


def _choice(backend: Backend, reason: str) -> Choice:
    return Choice(implementation=backend, reason=reason)


NO_MASK = _choice("fused", "no mask is needed")
PLAIN_CAUSAL = _choice("fused", "plain causal rows")
FEW_ROWS = _choice("masked", "few queries have few pairs to skip")
GENERATED = _choice("flex", "a generated kernel skips masked tiles and takes caps and documents")
SHORT_ROW = _choice("masked", "a short row has few pairs to skip")
CAPPED = _choice("tiled", "no fused operator takes a soft-cap; a tile's scores stay in cache")
WINDOWED = _choice("folded", "the window leaves keys out")
PACKED = _choice("tiled", "documents need a mask, and tiles skip the pairs it always forbids")
CONTINUED = _choice(
    "tiled", "queries after cached keys need a mask, and tiles skip the pairs it always forbids"
)
WIDE_WINDOW = _choice("masked", "the window is close to the whole row")
MEDIUM_ROW = _choice("masked", "a row of this length has few pairs to skip")


def backend_of(
    *,
    tokens: int,
    keys: int | None = None,
    causal: bool = True,
    window: int | None = None,
    radius: Radius | None = None,
    softcap: float | None = None,
    packed: bool = False,
    offset: int = 0,
    head_width: int = 64,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Choice:
    """What ``attend`` would run for these sizes; ``packed``: with segments.

    ``keys`` None: as many as tokens.
    """
    return choose(
        tokens,
        tokens if keys is None else keys,
        Span.of(causal=causal, window=window, radius=radius, offset=offset),
        softcap,
        packed,
        head_width=head_width,
        dtype=dtype,
        device=torch.device(device),
    )


def choose(
    queries: int,
    keys: int,
    span: Span,
    softcap: float | None,
    packed: bool,
    *,
    head_width: int,
    dtype: torch.dtype,
    device: torch.device,
    backend: str | None = None,
) -> Choice:
    """``backend``: the one the caller requests; None: that of an override, else by the rule for these sizes.

    Raises: ConfigError when the requested one is unknown or cannot compute this attention.
    """
    span = span.within(queries, keys)
    limited = span.lookback is not None and span.lookahead is not None
    fused = False
    if softcap is None and not packed and span.lookback is None:
        # is_causal aligns the first query with the first key: right only when there are as many of both
        fused = span.lookahead is None or (span.lookahead == span.offset == 0 and queries == keys)
    source = ""
    if backend is None:
        backend, source = override("attention")
    if backend is not None:
        able = {
            "fused": fused,
            "masked": True,
            "folded": limited and softcap is None,
            "tiled": True,
            "flex": True,
        }
        return _requested(backend, able, source)
    if fused:
        return NO_MASK if span.lookahead is None else PLAIN_CAUSAL
    if queries <= FEW_QUERIES:
        return FEW_ROWS
    if flex_serves(head_width=head_width, dtype=dtype, device=device):
        return GENERATED
    if keys < SHORT_KEYS:
        return SHORT_ROW
    if softcap is not None:
        return CAPPED
    if limited and folds_pay(keys, span):
        return WINDOWED
    if queries >= LONG:
        return PACKED if packed else CONTINUED
    return WIDE_WINDOW if limited else MEDIUM_ROW


def folds_pay(keys: int, span: Span) -> bool:
    """For rows that are not long: when a fold computes less than 3/4 of the pairs of a dense mask."""
    assert span.lookback is not None and span.lookahead is not None
    reach = span.lookback + span.lookahead + 1
    return keys >= LONG or 4 * (reach + fold_rows(reach)) < 3 * keys


def _requested(backend: str, able: dict[str, bool], source: str) -> Choice:
    """``source``: the override that names the backend, "" for the caller."""
    name = "masked" if backend == "reference" else backend
    if name not in able:
        raise ConfigError(f"attention: unknown backend {backend!r}{did_you_mean(backend, get_args(Backend))}")
    if not able[name]:
        origin = f", named by {source}," if source else ""
        names = ", ".join(option for option, possible in able.items() if possible)
        raise ConfigError(
            f"attention: backend {backend!r}{origin} cannot compute this mask or soft-cap; these can: {names}"
        )
    return Choice(implementation=name, reason=f"named by {source or 'the caller'}", requested=True)
