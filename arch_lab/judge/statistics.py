"""What a study may claim: intervals over seeds, paired differences, the choice of a learning rate, the verdict in words.

Doctrine: arms with the same seed saw the same data in the same order, so differences are paired by seed; intervals are
Student t; more than two arms are Holm-corrected; a run that diverged is left out of every mean but counted and named.
Less is better of what a study is judged by (``primary``: bits per byte, bits per masked token).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from arch_lab.judge import student_t
from arch_lab.judge.measures import BITS_PER_BYTE, PERPLEXITY, Measure
from arch_lab.units import budget_words, decimals, rate, words

Result = Mapping[str, Any]
Arm = str | Mapping[str, Any]


@dataclass(frozen=True)
class Interval:
    """Mean of ``n`` values with its confidence interval; without at least two values there is no interval."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference(Interval):
    """Mean of the paired differences a - b. ``p_value`` is None where the seeds cannot support a test."""

    differences: tuple[float, ...] = ()
    p_value: float | None = None
    distinguishable: bool = False


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student-t interval of the mean. ``values`` are finite; an empty sequence has mean None."""
    n = len(values)
    if n == 0:
        return Interval(None, None, None, 0)
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, None, None, 1)
    half = student_t.quantile((1 + level) / 2, n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_difference(a_by_seed: Mapping[int, float | None], b_by_seed: Mapping[int, float | None], level: float = 0.95) -> Difference:
    """a - b over the seeds where both are finite; ``distinguishable`` when p < 1 - level, uncorrected.

    When neither side moves with the seed there is one measurement, not n: no interval and no test, however many rows.
    """
    seeds = sorted(s for s in a_by_seed.keys() & b_by_seed.keys() if finite(a_by_seed[s]) and finite(b_by_seed[s]))
    a, b = (np.array([side[s] for s in seeds], dtype=float) for side in (a_by_seed, b_by_seed))
    differences = a - b
    base = mean_interval(differences.tolist(), level)
    if base.n < 2 or (np.ptp(a) == 0 and np.ptp(b) == 0):
        return Difference(base.mean, None, None, base.n, tuple(differences.tolist()))
    error = float(np.std(differences, ddof=1)) / math.sqrt(base.n)
    assert base.mean is not None
    statistic = base.mean / error if error else (math.inf if base.mean else 0.0)
    p_value = student_t.two_sided(statistic, base.n - 1)
    return Difference(**asdict(base), differences=tuple(differences.tolist()), p_value=p_value, distinguishable=p_value < 1 - level)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values; None (no test made) stays None and does not count as a comparison."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        adjusted[i] = running
    return adjusted


def finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def arm_names(arms: Sequence[Arm]) -> list[str]:
    return [arm if isinstance(arm, str) else arm["name"] for arm in arms]


def diverged(result: Result, primary: Measure = BITS_PER_BYTE) -> bool:
    return result.get("status") != "finished" or not finite(result.get(primary.key))


def by_seed(
    results: Sequence[Result], arm: str, learning_rate: float | None, key: str = "", primary: Measure = BITS_PER_BYTE
) -> dict[int, float | None]:
    """Seed -> value of ``key`` (default: the primary; None where the run diverged) at one learning rate of one arm."""
    key = key or primary.key
    rows = [r for r in results if r["arm"] == arm and r["learning_rate"] == learning_rate]
    return {r["seed"]: None if diverged(r, primary) or not finite(r.get(key)) else float(r[key]) for r in rows}


def select(results: Sequence[Result], arms: Sequence[Arm], primary: Measure = BITS_PER_BYTE) -> dict[str, float]:
    """Arm -> the learning rate with the lowest mean of the primary on the tuning split; the reported split is never looked at.

    Learning rates compete on the seeds that all of them have run, so one that was given more seeds later gains nothing
    by it. A rate where a seed diverged loses to every rate where none did; among such rates fewer divergences win.
    Ties go to the smaller rate. An arm without results is absent.
    """
    chosen = {}
    for arm in arm_names(arms):
        rates = sorted({r["learning_rate"] for r in results if r["arm"] == arm})
        tuned = {rate_: by_seed(results, arm, rate_, primary.tuned, primary) for rate_ in rates}
        common = set.intersection(*(set(seeds) for seeds in tuned.values())) if tuned else set()

        def standing(rate_: float, tuned: Any = tuned, common: Any = common) -> tuple[int, float, float]:
            values = [v for s, v in tuned[rate_].items() if s in common or not common]
            good = [v for v in values if v is not None]
            return len(values) - len(good), float(np.mean(good)) if good else math.inf, rate_

        if rates:
            chosen[arm] = min(rates, key=standing)
    return chosen


def edge_warnings(
    results: Sequence[Result],
    selected: Mapping[str, float],
    grid: Sequence[float] | Mapping[str, Sequence[float]],
    primary: Measure = BITS_PER_BYTE,
) -> list[str]:
    """One line per arm whose best learning rate is the grid's first or last: its true optimum may lie outside.

    ``grid``: the rates tried, shared or per arm. Arms that finished no run are left to the verdict.
    """
    lines = []
    for arm, chosen in selected.items():
        rates = sorted(grid.get(arm, ()) if isinstance(grid, Mapping) else grid)
        if not rates or all(value is None for value in by_seed(results, arm, chosen, primary=primary).values()):
            continue
        if len(rates) == 1:
            lines.append(f"{arm}: only one learning rate ({rate(chosen)}) was tried, so it is not tuned; add neighbours a factor 2 apart")
        elif chosen in (rates[0], rates[-1]):
            side, factor = ("smallest", 0.5) if chosen == rates[0] else ("largest", 2)
            lines.append(
                f"{arm}: its best learning rate {rate(chosen)} is the {side} of the grid, so the optimum may lie outside;"
                f" add {rate(chosen * factor)} and compare again"
            )
    return lines


def summary(
    results: Sequence[Result],
    selected: Mapping[str, float],
    arms: Sequence[Arm],
    baselines: Sequence[Mapping[str, Any]] = (),
    measures: Sequence[Measure] = PERPLEXITY,
) -> list[dict[str, Any]]:
    """One row per arm at its selected learning rate, with an interval for each of ``measures``; the ``summary`` of study.json.

    Perplexities are exponentials of a loss, so their mean and interval are taken on the logarithm (geometric mean):
    they then move with the loss. ``beats`` lists the baselines above the *upper* end of the interval (above the
    value itself when there is one seed). Throughput is the mean, memory the maximum over seeds.
    """
    rows, primary = [], measures[0]
    for arm in arm_names(arms):
        chosen = selected.get(arm)
        runs = [r for r in results if r["arm"] == arm and r["learning_rate"] == chosen]
        good = [r for r in runs if not diverged(r, primary)]
        measured = {m.key: _interval(by_seed(results, arm, chosen, m.key, primary), m) for m in measures}
        loss = measured[primary.key]
        bound = loss.high if loss.high is not None else loss.mean
        speeds = [r["tokens_per_second"] for r in good if finite(r.get("tokens_per_second"))]
        peaks = [r["peak_memory_bytes"] for r in good if finite(r.get("peak_memory_bytes"))]
        rows.append(
            {
                "arm": arm,
                "learning_rate": chosen,
                **{key: asdict(interval) for key, interval in measured.items()},
                "tokens_per_second": float(np.mean(speeds)) if speeds else None,
                "peak_memory_bytes": max(peaks) if peaks else None,
                "beats": [b["name"] for b in baselines if bound is not None and finite(b.get(primary.key)) and bound < b[primary.key]],
                "diverged_seeds": sorted(r["seed"] for r in runs if diverged(r, primary)),
            }
        )
    return rows


def _interval(values: Mapping[int, float | None], measure: Measure) -> Interval:
    if not measure.logarithmic:
        return mean_interval([v for v in values.values() if v is not None])
    logs = mean_interval([math.log(v) for v in values.values() if v is not None and v > 0])
    mean, low, high = (None if x is None else math.exp(min(x, 700.0)) for x in (logs.mean, logs.low, logs.high))
    return Interval(mean, low, high, logs.n)


def compare_pairs(
    results: Sequence[Result],
    selected: Mapping[str, float],
    arms: Sequence[Arm],
    level: float = 0.95,
    primary: Measure = BITS_PER_BYTE,
) -> list[dict[str, Any]]:
    """Every pair of arms at their selected learning rates, later arm minus earlier arm; ``verdict.pairs`` of study.json.

    ``low``/``high`` is the plain interval of the pair; ``distinguishable`` is decided on the Holm-adjusted p-value.
    """
    names = arm_names(arms)
    values = {name: by_seed(results, name, selected.get(name), primary=primary) for name in names}
    pairs = [(b, a) for a, b in combinations(names, 2)]
    raw = [paired_difference(values[a], values[b], level) for a, b in pairs]
    adjusted = holm([d.p_value for d in raw])
    out = []
    for (a, b), difference, p in zip(pairs, raw, adjusted, strict=True):
        judged = replace(difference, distinguishable=p is not None and p < 1 - level)
        left_out = [f"{arm} seed {s}" for arm in (a, b) for s, v in sorted(values[arm].items()) if v is None]
        out.append(
            {
                "a": a,
                "b": b,
                "difference": judged.mean,
                "low": judged.low,
                "high": judged.high,
                "n": judged.n,
                "differences": list(judged.differences),
                "distinguishable": judged.distinguishable,
                "p_value": judged.p_value,
                "p_adjusted": p,
                "text": _pair_text(a, b, judged, left_out, sum(q is not None for q in adjusted), primary.name),
            }
        )
    return out


def _pair_text(a: str, b: str, d: Difference, left_out: list[str], tests: int, unit: str) -> str:
    note = f" (diverged, left out: {', '.join(left_out)})" if left_out else ""
    if d.mean is None:
        return f"{a} − {b}: no seed finished in both{note}"
    seeds = f"n={d.n} seed{'s' * (d.n > 1)}"
    if d.low is None or d.high is None:
        reason = "one seed cannot support a verdict" if d.n == 1 else "no spread between seeds, which cannot support a verdict"
        return f"{a} − {b}: {d.mean:+.4f} {unit}, {seeds}: {reason}{note}"
    places = decimals((d.high - d.low) / 2)
    head = f"{a} − {b}: {d.mean:+.{places}f} {unit} [{d.low:.{places}f}, {d.high:.{places}f}], {seeds}"
    if d.distinguishable:
        return f"{head}: {b if d.mean > 0 else a} is better{note}"
    # the plain interval may exclude 0 and the correction still refuse: say why
    corrected = f" after Holm's correction over {tests} pairs" if tests > 1 and (d.low > 0 or d.high < 0) else ""
    return f"{head}: not distinguishable{corrected}{note}"


def verdict(
    results: Sequence[Result],
    selected: Mapping[str, float],
    arms: Sequence[Arm],
    budget: str | Mapping[str, Any] = "the same budget",
    matched: bool = True,
    primary: Measure = BITS_PER_BYTE,
) -> dict[str, Any]:
    """The quotable answer: ``{"text", "pairs"}``.

    ``budget``: the words after "At", for instance "1M parameters and 20 TFLOP of training", or the study's budget itself;
    ``matched=False`` (a gate that was overridden) is said before anything else.
    """
    budget = budget if isinstance(budget, str) else budget_words(budget)
    pairs = compare_pairs(results, selected, arms, primary=primary)
    text = _sentence(results, selected, arm_names(arms), pairs, f"At {budget}" if matched else "As measured", primary)
    if not matched:
        text = f"The budgets are not matched, so this is not a comparison at equal cost. {text}"
    failures = _failures(results, primary)
    return {"text": f"{text} {failures}" if failures else text, "pairs": pairs}


def _sentence(
    results: Sequence[Result], selected: Mapping[str, float], names: list[str], pairs: list[dict[str, Any]], at: str, primary: Measure
) -> str:
    scored = {n: by_seed(results, n, selected.get(n), primary=primary) for n in names}
    means = {n: mean_interval([v for v in scored[n].values() if v is not None]).mean for n in names}
    unit = primary.name
    measured = [f"{n} {m:.4f}" for n, m in means.items() if m is not None]
    if not measured:
        return "No run finished, so there is no verdict."
    if len(names) == 1:
        return f"{at}, {names[0]} measures {means[names[0]]:.4f} {unit}; it is the only arm, so nothing is compared."
    tested = [p for p in pairs if p["p_adjusted"] is not None]
    if not tested:
        most = max(p["n"] for p in pairs)
        if most == 0:
            return f"{at}, no two arms finished the same seed, so there is no verdict ({unit}: {', '.join(measured)})."
        why = "One seed cannot support a verdict" if most == 1 else "The seeds show no spread, so they cannot support a verdict"
        advice = "; run at least 3 seeds" if most == 1 else "; check that the seed reaches the runs"
        return f"{why}: {at[0].lower()}{at[1:]}, {unit} are {words(measured)}{advice}."
    if len(pairs) == 1:
        p = pairs[0]
        places = decimals((p["high"] - p["low"]) / 2)
        evidence = f"[{p['low']:.{places}f}, {p['high']:.{places}f}] {unit}, 95 % interval over {p['n']} paired seeds"
        if not p["distinguishable"]:
            return f"{at}, {p['a']} and {p['b']} are not distinguishable ({p['a']} − {p['b']} = {p['difference']:+.{places}f} {evidence})."
        worse, better = (p["a"], p["b"]) if p["difference"] > 0 else (p["b"], p["a"])
        return f"{at}, {better} is better than {worse} ({p['a']} − {p['b']} = {p['difference']:+.{places}f} {evidence})."
    beaten: dict[str, list[str]] = {}
    for p in (p for p in tested if p["distinguishable"]):
        better, worse = (p["b"], p["a"]) if p["difference"] > 0 else (p["a"], p["b"])
        beaten.setdefault(better, []).append(worse)
    ranked = sorted(beaten, key=lambda n: means[n] or math.inf)
    clauses = [f"{better} is better than {words(beaten[better])}" for better in ranked]
    clauses += [f"{p['b']} and {p['a']} are not distinguishable" for p in tested if not p["distinguishable"]]
    clauses += [f"{p['b']} and {p['a']} cannot be judged ({p['n']} paired seeds)" for p in pairs if p["p_adjusted"] is None]
    seeds = sorted({p["n"] for p in tested})
    over = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    corrected = f", Holm-corrected over {len(tested)} pairs" if len(tested) > 1 else ""
    return f"{at}, {'; '.join(clauses)} (95 % level, {over} paired seeds{corrected})."


def better_than(study: Mapping[str, Any], arm: str) -> list[str]:
    """What an arm is better than: baselines outside its interval, arms whose paired difference is distinguishable."""
    beaten = [name for s in study["summary"] if s["arm"] == arm for name in s.get("beats") or []]
    for pair in study["verdict"]["pairs"]:
        if pair["distinguishable"]:
            better, worse = (pair["b"], pair["a"]) if pair["difference"] > 0 else (pair["a"], pair["b"])
            beaten += [worse] if better == arm else []
    return beaten


def _failures(results: Sequence[Result], primary: Measure) -> str:
    lost: dict[tuple[str, float], list[int]] = {}
    for r in (r for r in results if diverged(r, primary)):
        lost.setdefault((r["arm"], r["learning_rate"]), []).append(r["seed"])
    if not lost:
        return ""
    named = [
        f"{arm} at learning rate {rate(lr)} (seed{'s' * (len(seeds) > 1)} {words([str(s) for s in sorted(seeds)])})"
        for (arm, lr), seeds in sorted(lost.items())
    ]
    return f"Diverged and left out, {sum(map(len, lost.values()))} of {len(results)} runs: {', '.join(named)}."
