"""Ratios of interleaved pairs, and the length from which one arm is faster than another.

Legend: T tokens; ratio = the peer's time / the subject's: above 1 the subject is faster.
Between two measured lengths the logarithm of the ratio is a straight line over log T. The spread of a crossover is where
the line through the lower quartiles crosses, and the one through the upper quartiles.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Row = Mapping[str, Any]
BELOW, NONE, CROSSES, UNKNOWN = "below", "none", "crosses", "unknown"


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile; of three values the extremes."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """``where``: ``crosses`` at ``tokens``; ``below`` the shortest length, faster everywhere; ``none`` up to the longest;
    ``unknown``: no length at which both were measured."""

    where: str
    tokens: float | None = None


def crossing(points: Sequence[tuple[int, float]]) -> Crossing:
    """From (T, ratio), T ascending: the length from which the ratio stays above 1 up to the longest T."""
    if not points:
        return Crossing(where=UNKNOWN)
    slower = [i for i, (_, ratio) in enumerate(points) if ratio < 1]
    if not slower:
        return Crossing(where=BELOW)
    last = slower[-1]
    if last == len(points) - 1:
        return Crossing(where=NONE)
    (t, r), (t_next, r_next) = points[last], points[last + 1]
    along = -math.log(r) / (math.log(r_next) - math.log(r))
    return Crossing(where=CROSSES, tokens=t * (t_next / t) ** along)


def ratios(rows: Iterable[Row], subject: str) -> list[dict[str, Any]]:
    """Median and quartiles of peer time / subject time, pair by pair, wherever both were measured in one group."""
    cells = {(r["level"], r["mode"], r["tokens"], r["compiled"], r["arm"]): r for r in rows}
    found = []
    for (*place, arm), peer in cells.items():
        ours = cells.get((*place, subject))
        if arm == subject or ours is None or not (ours["seconds"] and peer["seconds"]):
            continue
        ratio, low, high = middle([b / a for a, b in zip(ours["seconds"], peer["seconds"], strict=True)])
        level, mode, tokens, compiled = place
        sizes = {"level": level, "mode": mode, "tokens": tokens, "compiled": compiled}
        found.append(
            {**sizes, "subject": subject, "peer": arm, "ratio": ratio, "ratio_low": low, "ratio_high": high}
        )
    return found


def crossovers(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One an (level, mode, compiled, peer): the crossing of the medians, and the earliest and latest of the quartiles."""
    series: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for pair in sorted(pairs, key=lambda p: p["tokens"]):
        series.setdefault(
            (pair["level"], pair["mode"], pair["compiled"], pair["subject"], pair["peer"]), []
        ).append(pair)
    found = []
    for (level, mode, compiled, subject, peer), points in series.items():
        at = {
            key: crossing([(p["tokens"], p[key]) for p in points])
            for key in ("ratio", "ratio_high", "ratio_low")
        }
        found.append(
            {
                "level": level,
                "mode": mode,
                "compiled": compiled,
                "subject": subject,
                "peer": peer,
                **asdict(at["ratio"]),
                "earliest": asdict(at["ratio_high"]),
                "latest": asdict(at["ratio_low"]),
                "shortest": points[0]["tokens"],
                "longest": points[-1]["tokens"],
                "last_ratio": points[-1]["ratio"],
            }
        )
    return found


def words(found: Mapping[str, Any]) -> str:
    """'1,430 tokens [1,210, 1,690]', 'below 128 tokens', 'none up to 16,384 tokens (ratio 0.83 there)'."""
    edges = [_edge(found[key], found) for key in ("earliest", "latest")]
    if found["where"] == CROSSES:
        return f"{found['tokens']:,.0f} tokens [{edges[0]}, {edges[1]}]"
    if found["where"] == BELOW:
        sure = found["latest"]["where"] == BELOW
        return f"below {found['shortest']:,} tokens" + ("" if sure else f" [{edges[0]}, {edges[1]}]")
    sure = found["earliest"]["where"] == NONE
    tail = "" if sure else f" [{edges[0]}, {edges[1]}]"
    return f"none up to {found['longest']:,} tokens (ratio {found['last_ratio']:.2f} there){tail}"


def _edge(edge: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if edge["where"] == CROSSES:
        return f"{edge['tokens']:,.0f}"
    return f"< {found['shortest']:,}" if edge["where"] == BELOW else f"> {found['longest']:,}"
