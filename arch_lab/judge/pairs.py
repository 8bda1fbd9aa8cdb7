"""Every pair of arms on one task: paired differences over seeds, corrected by Holm, and the line that states the result."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from arch_lab.judge.intervals import LEVEL, holm, paired_difference
from arch_lab.judge.measures import Measure
from arch_lab.judge.records import Difference, Pair
from arch_lab.judge.regime import BETTER
from arch_lab.units import decimals


def compare_pairs(
    values: Mapping[str, Mapping[int, float | None]],
    measure: Measure,
    *,
    task: str = "",
    level: float = LEVEL,
    lead: str = BETTER,
) -> list[Pair]:
    """Later arm minus earlier arm, for all pairs. ``values``: arm -> seed -> score, None where the trial diverged.
    ``lead``: what may be said of the better arm (arch_lab.judge.regime.claim).

    Holm's correction runs over the pairs of one task, because a task is one question.
    """
    names = [(b, a) for a, b in combinations(values, 2)]
    raw = [paired_difference(values[a], values[b], level) for a, b in names]
    adjusted = holm([difference.p_value for difference in raw])
    tests = sum(p is not None for p in adjusted)
    pairs = []
    for (a, b), difference, p in zip(names, raw, adjusted, strict=True):
        distinguishable = p is not None and p < 1 - level
        better = _better(a, b, difference, measure) if distinguishable else None
        left_out = [f"{arm} seed {s}" for arm in (a, b) for s, v in sorted(values[arm].items()) if v is None]
        text = _text(a, b, difference, better, tests=tests, unit=measure.name, lead=lead)
        text += f" (diverged, left out: {', '.join(left_out)})" if left_out else ""
        pairs.append(
            Pair(
                task=task,
                a=a,
                b=b,
                measure=measure.name,
                difference=difference.mean,
                low=difference.low,
                high=difference.high,
                n=difference.n,
                differences=difference.differences,
                p_value=difference.p_value,
                p_adjusted=p,
                distinguishable=distinguishable,
                better=better,
                lead=lead,
                text=f"{task}: {text}" if task else text,
            )
        )
    return pairs


def _better(a: str, b: str, difference: Difference, measure: Measure) -> str | None:
    if not difference.mean:
        return None
    return a if (difference.mean > 0) == measure.higher_is_better else b


def _text(a: str, b: str, d: Difference, better: str | None, *, tests: int, unit: str, lead: str) -> str:
    if d.mean is None:
        return f"{a} − {b}: no seed finished in both"
    seeds = f"n={d.n} seed{'s' * (d.n > 1)}"
    if d.low is None or d.high is None:
        reason = (
            "one seed cannot support a verdict"
            if d.n == 1
            else "no spread between seeds, which cannot support a verdict"
        )
        return f"{a} − {b}: {d.mean:+.4f} {unit}, {seeds}: {reason}"
    places = decimals((d.high - d.low) / 2)
    head = f"{a} − {b}: {d.mean:+.{places}f} {unit} [{d.low:.{places}f}, {d.high:.{places}f}], {seeds}"
    if better:
        return f"{head}: {better} {lead}"
    # the plain interval may exclude 0 and the correction still refuse: say why
    corrected = (
        f" after Holm's correction over {tests} pairs" if tests > 1 and (d.low > 0 or d.high < 0) else ""
    )
    return f"{head}: not distinguishable{corrected}"
