"""Ratios of interleaved pairs, and the length from which one arm is faster than another.

Legend: T tokens; ratio = the peer's time / the subject's: above 1 the subject is faster.
Between two measured lengths the logarithm of the ratio is a straight line over log T. The spread of a
crossover is where the line through the lower quartiles crosses, and the one through the upper quartiles.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from arch_lab.stored import Stored

BELOW, NONE, CROSSES, UNKNOWN = "below", "none", "crosses", "unknown"


@dataclass(frozen=True, kw_only=True)
class Series(Stored):
    """What is timed over sequence lengths: a part of a model (``level``) doing one thing (``mode``)."""

    level: str
    mode: str
    compiled: bool

    @property
    def mode_label(self) -> str:
        """'step', 'step compiled'."""
        return f"{self.mode}{' compiled' if self.compiled else ''}"

    @property
    def series(self) -> Series:
        """The series alone, of what is one length of it."""
        return Series(level=self.level, mode=self.mode, compiled=self.compiled)


class Timed(Protocol):
    """Seconds of one arm at one length. ``seconds``: one value per round; empty where it was not measured."""

    @property
    def series(self) -> Series: ...
    @property
    def tokens(self) -> int: ...
    @property
    def arm(self) -> str: ...
    @property
    def seconds(self) -> Sequence[float]: ...


@dataclass(frozen=True, kw_only=True)
class Ratio(Series):
    """Median and quartiles of the peer's time / the subject's, round by round."""

    tokens: int
    subject: str
    peer: str
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True, kw_only=True)
class Crossing(Stored):
    """Where a ratio rises above 1 for good.

    ``where``: ``crosses`` at ``tokens``; ``below`` the shortest length, faster everywhere; ``none`` up to the
    longest; ``unknown``: no length at which both were measured.
    """

    where: str
    tokens: float | None = None


@dataclass(frozen=True, kw_only=True)
class Crossover(Series):
    """The length from which the subject is faster than a peer.

    ``where`` and ``tokens``: the crossing of the medians; ``earliest`` and ``latest``: of the quartiles.
    ``shortest`` and ``longest``: lengths at which both were measured; ``last_ratio``: at the longest.
    """

    subject: str
    peer: str
    where: str
    tokens: float | None
    earliest: Crossing
    latest: Crossing
    shortest: int
    longest: int
    last_ratio: float

    def __str__(self) -> str:
        """'1,430 tokens [1,210, 1,690]', 'below 128 tokens', 'none up to 512 tokens (ratio 0.83 there)'."""
        spread = f" [{self._edge(self.earliest)}, {self._edge(self.latest)}]"
        if self.where == CROSSES:
            return f"{self.tokens:,.0f} tokens{spread}"
        if self.where == BELOW:
            return f"below {self.shortest:,} tokens{'' if self.latest.where == BELOW else spread}"
        tail = "" if self.earliest.where == NONE else spread
        return f"none up to {self.longest:,} tokens (ratio {self.last_ratio:.2f} there){tail}"

    def _edge(self, crossing: Crossing) -> str:
        if crossing.where == CROSSES:
            return f"{crossing.tokens:,.0f}"
        return f"< {self.shortest:,}" if crossing.where == BELOW else f"> {self.longest:,}"


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile; of three values the extremes."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]


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


def ratios(timings: Iterable[Timed], subject: str) -> list[Ratio]:
    """A ratio of each peer to the subject, wherever both were measured in one group."""
    cells = {(timing.series, timing.tokens, timing.arm): timing for timing in timings}
    pairs = []
    for (series, tokens, arm), peer in cells.items():
        ours = cells.get((series, tokens, subject))
        if arm != subject and ours is not None and ours.seconds and peer.seconds:
            pairs.append(_ratio(ours, peer))
    return pairs


def _ratio(subject: Timed, peer: Timed) -> Ratio:
    median, low, high = middle([b / a for a, b in zip(subject.seconds, peer.seconds, strict=True)])
    return Ratio(
        **subject.series.to_json(),
        tokens=subject.tokens,
        subject=subject.arm,
        peer=peer.arm,
        ratio=median,
        ratio_low=low,
        ratio_high=high,
    )


def crossovers(pairs: Sequence[Ratio]) -> list[Crossover]:
    """A crossover of each series and peer: of the medians, with the earliest and latest of the quartiles."""
    lines: dict[tuple[Series, str], list[Ratio]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.tokens):
        lines.setdefault((pair.series, pair.peer), []).append(pair)
    return [_crossover(line) for line in lines.values()]


def _crossover(line: Sequence[Ratio]) -> Crossover:
    """Of the ratios of one series and peer, T ascending."""
    shortest, longest = line[0], line[-1]
    medians = crossing([(pair.tokens, pair.ratio) for pair in line])
    return Crossover(
        **shortest.series.to_json(),
        subject=shortest.subject,
        peer=shortest.peer,
        where=medians.where,
        tokens=medians.tokens,
        earliest=crossing([(pair.tokens, pair.ratio_high) for pair in line]),
        latest=crossing([(pair.tokens, pair.ratio_low) for pair in line]),
        shortest=shortest.tokens,
        longest=longest.tokens,
        last_ratio=longest.ratio,
    )
