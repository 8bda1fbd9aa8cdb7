"""Ratios of interleaved pairs, and crossovers with their spread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from arch_lab.judge.crossover import (
    BELOW,
    CROSSES,
    NONE,
    UNKNOWN,
    Crossover,
    Series,
    crossing,
    crossovers,
    ratios,
)

MODEL = Series(level="model", mode="forward", compiled=False)
MIXER = Series(level="mixer", mode="forward", compiled=False)
Three = tuple[float, float, float]


@dataclass(frozen=True)
class Timing:
    arm: str
    tokens: int
    seconds: tuple[float, ...]
    series: Series = MODEL


def test_a_power_law_crosses_where_it_is_one() -> None:
    """ratio = (T / 1000)^0.7 is a straight line on logarithmic axes, so interpolation finds 1000 exactly."""
    result = crossing([(t, (t / 1000) ** 0.7) for t in (128, 512, 2048, 8192)])
    assert result.where == CROSSES and result.tokens == pytest.approx(1000)


@pytest.mark.parametrize(
    ("points", "where"),
    [
        ([(128, 1.2), (512, 3.0)], BELOW),
        ([(128, 0.5), (512, 0.9)], NONE),
        ([], UNKNOWN),
        ([(128, 1.5), (512, 0.9)], NONE),
    ],
)
def test_no_crossing_is_an_answer(points: list[tuple[int, float]], where: str) -> None:
    assert crossing(points).where == where and crossing(points).tokens is None


def test_of_several_crossings_the_last_one_counts() -> None:
    assert crossing([(100, 2.0), (200, 0.5), (400, 2.0)]).tokens == pytest.approx(math.sqrt(200 * 400))


def test_a_ratio_is_taken_pair_by_pair_and_not_of_medians() -> None:
    """The machine slows down threefold between rounds; each pair still says 2."""
    (ratio,) = ratios([Timing("a", 64, (1, 3, 9)), Timing("b", 64, (2, 6, 18))], subject="a")
    assert (ratio.ratio, ratio.ratio_low, ratio.ratio_high, ratio.peer) == (2, 2, 2, "b")


def compared(*points: tuple[int, Three]) -> Crossover:
    """The crossover of a subject that takes 1 s everywhere and a peer's seconds by length."""
    timings = [Timing("ours", tokens, (1, 1, 1)) for tokens, _ in points]
    timings += [Timing("peer", tokens, seconds) for tokens, seconds in points]
    (crossover,) = crossovers(ratios(timings, subject="ours"))
    return crossover


def test_the_spread_of_a_crossover_is_that_of_its_quartiles() -> None:
    # at 100 tokens the ratio is 1/2; at 400 it lies between 1 (which meets 1 at 400) and 8 (at 100·4^(1/4))
    crossover = compared((100, (0.5, 0.5, 0.5)), (400, (1, 2, 8)))
    assert crossover.tokens == pytest.approx(200)
    assert crossover.earliest.tokens == pytest.approx(100 * 4**0.25)
    assert crossover.latest.tokens == pytest.approx(400)
    assert str(crossover) == "200 tokens [141, 400]"


@pytest.mark.parametrize(
    ("points", "start", "end"),
    [
        ([(128, (2, 2, 2)), (512, (3, 3, 3))], "below 128 tokens", "tokens"),
        ([(128, (0.5, 2, 2)), (512, (3, 3, 3))], "below 128 tokens [< 128, ", "]"),
        ([(128, (0.5,) * 3), (4096, (0.8,) * 3)], "none up to 4,096 tokens (ratio 0.80 there)", ")"),
        ([(128, (0.5,) * 3), (4096, (0.8, 0.9, 2))], "none up to 4,096 tokens", ", > 4,096]"),
    ],
)
def test_words_say_below_none_and_how_sure(points: list[tuple[int, Three]], start: str, end: str) -> None:
    text = str(compared(*points))
    assert text.startswith(start) and text.endswith(end)


def test_series_are_never_mixed() -> None:
    timings = [Timing(arm, 64, (5.0,) * 3) for arm in ("a", "b")]
    timings += [Timing("a", 64, (1.0,) * 3, MIXER), Timing("b", 64, (4.0,) * 3, MIXER)]
    assert {r.level: r.ratio for r in ratios(timings, subject="a")} == {"mixer": 4, "model": 1}


def test_what_was_not_measured_has_no_ratio() -> None:
    assert ratios([Timing("a", 64, (1, 1, 1)), Timing("b", 64, ())], subject="a") == []


def test_a_crossover_survives_json() -> None:
    crossover = compared((100, (0.5, 0.5, 0.5)), (400, (1, 2, 8)))
    assert Crossover.from_json(crossover.to_json()) == crossover
