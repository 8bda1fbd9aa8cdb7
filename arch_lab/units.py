"""Numbers as people read them: counts, FLOPs, bytes, seconds and intervals, the same words in every report.

Every function takes None (a run that diverged, a field an older study lacks) and answers with a dash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

DASH = "–"
YEAR = 365.25 * 86400  # seconds
_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


class Interval(Protocol):
    """A mean with its bounds, which are None where there is no interval."""

    @property
    def mean(self) -> float | None: ...

    @property
    def low(self) -> float | None: ...

    @property
    def high(self) -> float | None: ...


def missing(value: Any) -> bool:
    """Whether there is no number to show."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def short(value: float | None, unit: str = "", digits: int = 3) -> str:
    """Three (or ``digits``) significant digits with a decimal prefix.

    1234567 -> '1.23M', with a unit '1.23 MFLOP'.
    """
    if missing(value):
        return DASH
    assert value is not None
    scaled, power = float(value), 0
    # at three digits 999.5 would print as '1000', so the prefix moves where the rounding does
    while abs(scaled) >= 1000 - 0.5 * 10.0 ** (3 - digits) and power < len(_PREFIXES) - 1:
        scaled, power = scaled / 1000, power + 1
    text = f"{scaled:.{digits}g}" if power or not float(value).is_integer() else f"{int(value)}"
    return f"{text} {_PREFIXES[power]}{unit}" if unit else text + _PREFIXES[power]


def exact(value: float | None) -> str:
    """Whole number with thousands separators."""
    return DASH if missing(value) else f"{round(value):,}"  # type: ignore[arg-type]


def memory(value: float | None) -> str:
    """Bytes with binary prefixes: 5242880 -> '5 MiB'."""
    if missing(value):
        return DASH
    scaled = float(value)  # type: ignore[arg-type]
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(scaled) < 1024 or unit == "GiB":
            return f"{scaled:.3g} {unit}" if abs(scaled) < 100 else f"{scaled:,.0f} {unit}"
        scaled /= 1024
    raise AssertionError("unreachable")


def duration(seconds: float | None) -> str:
    """'48 s', '12 min 05 s', '3 h 20 min', '4 days 6 h', '152 years'."""
    if missing(seconds):
        return DASH
    assert seconds is not None
    if seconds >= 2 * YEAR:
        return years(seconds)
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole >= 10 else f"{seconds:.2g} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} days {whole % 86400 // 3600} h"


def years(seconds: float) -> str:
    """4.8e9 -> '152 years'; beyond 10,000 of them the number says nothing more."""
    return f"{seconds / YEAR:,.0f} years" if seconds < 1e4 * YEAR else "more than 10,000 years"


def percent(fraction: float | None) -> str:
    """Signed, two decimals: a deviation from a budget."""
    return DASH if missing(fraction) else f"{100 * fraction:+.2f} %"  # type: ignore[operator]


def number(value: float | None, digits: int = 4) -> str:
    """Significant digits without an exponent for ordinary sizes: perplexities, bits per byte."""
    if missing(value):
        return DASH
    assert value is not None
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:,.{max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))}f}"
    return short(value) if 1e6 <= abs(value) < 1e18 else f"{value:.{digits}g}"


def rate(value: float | None) -> str:
    """A learning rate at three significant digits (a power of two would print nine)."""
    return DASH if missing(value) else f"{value:.3g}"


def decimals(half_width: float | None) -> int:
    """Decimals that show two significant digits of an uncertainty, 3 to 6.

    More would be noise, fewer would hide it.
    """
    if half_width is None or not math.isfinite(half_width) or half_width <= 0:
        return 4
    return min(6, max(3, 1 - math.floor(math.log10(half_width))))


def half_width(interval: Interval) -> float | None:
    """Half of an interval's width; None where it has no bounds."""
    if missing(interval.low) or missing(interval.high):
        return None
    return (interval.high - interval.low) / 2  # type: ignore[operator]


def plus_minus(interval: Interval | None, places: int | None = None) -> str:
    """'1.234 ± 0.012'.

    Without bounds (one seed) the mean alone. ``places``: decimals, by default as many as the interval
    supports.
    """
    if interval is None or missing(interval.mean):
        return DASH
    half = half_width(interval)
    if half is None:
        return f"{interval.mean:.{4 if places is None else places}f}"
    places = decimals(half) if places is None else places
    return f"{interval.mean:.{places}f} ± {half:.{places}f}"


def bounded(interval: Interval | None, places: int | None = None) -> str:
    """'12.3 [11.9, 12.8]'.

    For quantities whose interval is not symmetric, as perplexities. ``places``: decimals.
    """
    if interval is None or missing(interval.mean):
        return DASH

    def text(value: float | None) -> str:
        return number(value) if places is None else f"{value:.{places}f}"

    if missing(interval.low) or missing(interval.high):
        return text(interval.mean)
    return f"{text(interval.mean)} [{text(interval.low)}, {text(interval.high)}]"


def budget_words(budget: Mapping[str, Any]) -> str:
    """'1M body+head parameters and 12 TFLOP of training', from the budget of a study."""
    kind = budget.get("match_on")
    kind = ", ".join(map(str, kind)) if isinstance(kind, (list, tuple)) else kind
    held = (
        []
        if missing(budget.get("params"))
        else [f"{short(budget['params'])} {kind + ' ' if kind else ''}parameters"]
    )
    if not missing(budget.get("train_flops")):
        flops = budget["train_flops"]
        each = [short(one, "FLOP") for one in (flops if isinstance(flops, (list, tuple)) else [flops])]
        held.append(f"{words(each)} of training")
    if not missing(budget.get("tokens")):
        held.append(f"{short(budget['tokens'])} training tokens")
    if not missing(budget.get("flops_per_token")):
        held.append(f"{short(budget['flops_per_token'], 'FLOP')} of training a token")
    if not missing(budget.get("seconds")):
        held.append(f"{duration(budget['seconds'])} of training steps")
    return words(held) or "the same budget"


def counted(number: int, thing: str) -> str:
    """'1 task', '3 tasks'."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def words(items: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
