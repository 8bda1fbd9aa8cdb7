"""Numbers as people read them: counts, FLOPs, bytes, seconds and intervals, the same words in every report.

Every function takes None (a run that diverged, a field an older study lacks) and answers with a dash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from arch_lab.console import YEAR, years

DASH = "–"
_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def missing(value: Any) -> bool:
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
    total = round(seconds)
    if total < 60:
        return f"{total} s" if total >= 10 else f"{seconds:.2g} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    if total < 2 * 86400:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 86400} days {total % 86400 // 3600} h"


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


def plus_minus(interval: Mapping[str, Any] | None) -> str:
    """'1.234 ± 0.012', or only the mean for one seed."""
    if not interval or missing(interval.get("mean")):
        return DASH
    mean, low, high = interval["mean"], interval.get("low"), interval.get("high")
    if low is None or high is None:
        return f"{mean:.4f}"
    half = (high - low) / 2
    places = decimals(half)
    return f"{mean:.{places}f} ± {half:.{places}f}"


def bounded(interval: Mapping[str, Any] | None) -> str:
    """'12.3 [11.9, 12.8]': for quantities whose interval is not symmetric, as perplexities."""
    if not interval or missing(interval.get("mean")):
        return DASH
    if missing(interval.get("low")) or missing(interval.get("high")):
        return number(interval["mean"])
    return f"{number(interval['mean'])} [{number(interval['low'])}, {number(interval['high'])}]"


def budget_words(budget: Mapping[str, Any]) -> str:
    """'1M body+head parameters and 12 TFLOP of training', from the budget of a study."""
    kind = budget.get("match_on")
    kind = ", ".join(map(str, kind)) if isinstance(kind, (list, tuple)) else kind
    terms = (
        []
        if missing(budget.get("params"))
        else [f"{short(budget['params'])} {kind + ' ' if kind else ''}parameters"]
    )
    if not missing(budget.get("train_flops")):
        terms.append(f"{short(budget['train_flops'], 'FLOP')} of training")
    if not missing(budget.get("tokens")):
        terms.append(f"{short(budget['tokens'])} training tokens")
    if not missing(budget.get("flops_per_token")):
        terms.append(f"{short(budget['flops_per_token'], 'FLOP')} of training a token")
    if not missing(budget.get("seconds")):
        terms.append(f"{duration(budget['seconds'])} of training steps")
    return words(terms) or "the same budget"


def counted(number: int, thing: str) -> str:
    """'1 task', '3 tasks'."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def words(items: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
