"""Which code computes an attention, and why: one visible decision from sizes and options alone.

Legend: T queries, S keys, C head width.

| backend | is                                                             | file      |
|---------|----------------------------------------------------------------|-----------|
| fused   | torch's scaled_dot_product_attention without a mask tensor     | core.py   |
| masked  | the same under a T x S mask; written out where there is a cap  | core.py   |
| folded  | the same over short blocks of queries and the keys near them   | local.py  |
| tiled   | rows of queries against the keys they may see, nothing kept    | tiled.py  |
| flex    | FlexAttention's generated kernel                               | flex.py   |

All of them compute one function; tests force each against ``masked``. Values never enter a decision, so a compiler can
trace it. The logger ``blocks.attention`` says each distinct decision once, at level INFO.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from blocks.attention.flex import flex_serves
from blocks.attention.local import fold_rows
from blocks.attention.masks import Radius, Span
from blocks.errors import ConfigError, did_you_mean

Backend = Literal["fused", "masked", "folded", "tiled", "flex"]
# Measured forward + backward in float32 on one core (4 heads on 2, C 64, batch 1 to 8); see docs/attention.md.
FEW_QUERIES = 16  # decoding: so few rows skip no pairs, and an operator of ours costs more to call than they cost
SHORT_KEYS = 256  # up to here one dense mask is as fast as anything
LONG = 512  # from here folds and tiles win or draw whatever the window, and the dense mask's T x S memory starts to show

log = logging.getLogger("blocks.attention")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A backend and the reason for it, one clause."""

    backend: Backend
    reason: str


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
    """What ``attend`` would run for these sizes; ``packed``: segments are given. ``keys`` None: as many as tokens."""
    span = Span.of(causal=causal, window=window, radius=radius, offset=offset)
    where = torch.device(device)
    return choose(tokens, tokens if keys is None else keys, span, softcap, packed, head_width=head_width, dtype=dtype, device=where)


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
    """``backend`` is the caller's wish, None lets the sizes decide.

    Raises: ConfigError for a wish that is unknown or cannot compute this attention.
    """
    span = span.within(queries, keys)
    limited = span.behind is not None and span.ahead is not None
    plain = softcap is None and not packed
    # is_causal aligns the first query with the first key: right only when there are as many of both
    fused = plain and (span.behind is None and (span.ahead is None or (span == Span(ahead=0) and queries == keys)))
    if backend is not None:
        can = {"fused": fused, "masked": True, "folded": limited and softcap is None, "tiled": True, "flex": True}
        return _wish(backend, can)
    if fused:
        return Choice(backend="fused", reason="no mask is needed" if span.ahead is None else "plain causal rows")
    if queries <= FEW_QUERIES:
        return Choice(backend="masked", reason="few queries have few pairs to skip")
    if flex_serves(head_width=head_width, dtype=dtype, device=device):
        return Choice(backend="flex", reason="a generated kernel skips masked tiles and takes caps and documents")
    if keys < SHORT_KEYS:
        return Choice(backend="masked", reason="a short row has few pairs to skip")
    if softcap is not None:
        return Choice(backend="tiled", reason="no fused operator takes a soft-cap; a tile's scores stay in cache")
    if limited and folds_pay(keys, span):
        return Choice(backend="folded", reason="the window leaves keys out")
    if queries >= LONG:
        what = "documents need" if packed else "queries after cached keys need"
        return Choice(backend="tiled", reason=f"{what} a mask, and tiles skip the pairs it always forbids")
    return Choice(
        backend="masked", reason="the window is close to the whole row" if limited else "a row of this length has few pairs to skip"
    )


def folds_pay(keys: int, span: Span) -> bool:
    """For rows that are not long: when a fold computes less than 3/4 of the pairs of a dense mask."""
    assert span.behind is not None and span.ahead is not None
    reach = span.behind + span.ahead + 1
    return keys >= LONG or 4 * (reach + fold_rows(reach)) < 3 * keys


def _wish(backend: str, can: dict[str, bool]) -> Choice:
    if backend not in can:
        raise ConfigError(f"attention: unknown backend {backend!r}{did_you_mean(backend, get_args(Backend))}")
    if not can[backend]:
        able = ", ".join(name for name, ok in can.items() if ok)
        raise ConfigError(f"attention: backend {backend!r} cannot compute this mask or soft-cap; able: {able}")
    return Choice(backend=backend, reason="the caller named it")  # type: ignore[arg-type]


_said: set[Choice] = set()


def say(choice: Choice) -> None:
    """Once per distinct decision. Silent while a compiler traces, which logging would interrupt."""
    if not torch.compiler.is_compiling() and choice not in _said:
        _said.add(choice)
        log.info("attention runs %s: %s", choice.backend, choice.reason)
