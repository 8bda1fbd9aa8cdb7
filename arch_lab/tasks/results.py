"""What the fits of a study over tasks say: the chosen rates, intervals over seeds, paired differences, averages, the verdict.

Doctrine as for every study (arch_lab.judge.statistics): the rate is chosen on rows held out of training and reported on others;
differences are paired by seed, Student t. Holm's correction runs over the pairs of one task, because a task is one question. A fit
that diverged is left out of every mean, counted and named. Baselines stand beside the methods and in no pair.

A row is a plain mapping: task, method, learning_rate (None: it has none), seed, status, tuned, scores, facts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from arch_lab.judge.measures import Measure
from arch_lab.judge.statistics import finite, holm, mean_interval, paired_difference
from arch_lab.units import decimals, rate, words

Row = Mapping[str, Any]
AVERAGE = "average"
LEVEL = 0.95


def measures_of(task: Mapping[str, Any]) -> tuple[Measure, ...]:
    return tuple(Measure(**m) for m in task["measures"])


def finished(row: Row) -> bool:
    return bool(row["status"] == "finished")


def choose(rows: Sequence[Row], task: str, method: str, *, higher_is_better: bool) -> float | None:
    """The rate with the best mean on the tuning rows, over the seeds that every rate has run; ties go to the smaller rate.

    A rate where a seed diverged loses to every rate where fewer did. None: nothing was run, or the method has no rate.
    """
    mine = [r for r in rows if (r["task"], r["method"]) == (task, method)]
    rates = sorted({r["learning_rate"] for r in mine if r["learning_rate"] is not None})
    if not rates:
        return None
    seeds = set.intersection(*({r["seed"] for r in mine if r["learning_rate"] == lr} for lr in rates))

    def standing(lr: float) -> tuple[int, float, float]:
        here = [r for r in mine if r["learning_rate"] == lr and (r["seed"] in seeds or not seeds)]
        good = [r["tuned"] for r in here if finished(r) and finite(r["tuned"])]
        mean = float(np.mean(good)) if good else -math.inf if higher_is_better else math.inf
        return len(here) - len(good), -mean if higher_is_better else mean, lr

    return min(rates, key=standing)


def by_seed(rows: Sequence[Row], task: str, method: str, learning_rate: float | None, key: str) -> dict[int, float | None]:
    """Seed -> score at one rate; None where the fit diverged."""
    mine = [r for r in rows if (r["task"], r["method"], r["learning_rate"]) == (task, method, learning_rate)]
    return {r["seed"]: float(r["scores"][key]) if finished(r) and finite(r["scores"].get(key)) else None for r in mine}


def summarise(planned: Mapping[str, Any], rows: Sequence[Row], chosen: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    """The judged part of study.json: ``summary`` (a row a task and method), ``pairs``, ``averages``, ``warnings``, ``verdict``.

    ``chosen``: task -> method -> learning rate.
    """
    summary, pairs = [], []
    for task in planned["tasks"]:
        here = _summary(planned, task, rows, chosen[task["name"]])
        summary += here
        judged = [s["method"] for s in here if not s["baseline"]]
        primary = measures_of(task)[0]
        values = {m: by_seed(rows, task["name"], m, chosen[task["name"]][m], primary.key) for m in judged}
        pairs += paired(task["name"], values, primary)
    averages, more = _averages(planned, rows, chosen)
    found = {"summary": summary, "pairs": pairs + more, "averages": averages}
    return {**found, "warnings": _warnings(planned, rows, chosen), "verdict": {"text": _verdict(planned, rows, found)}}


def _summary(planned: Mapping[str, Any], task: Mapping[str, Any], rows: Sequence[Row], chosen: Mapping[str, float | None]) -> list[Any]:
    """One row a method of the task: an interval and a median for each measure, and the baselines that it beats by its interval."""
    measured, found = measures_of(task), []
    for method in planned["methods"]:
        if task["name"] not in method["tasks"]:
            continue
        lr = chosen[method["name"]]
        runs = [r for r in rows if (r["task"], r["method"], r["learning_rate"]) == (task["name"], method["name"], lr)]
        scores = {}
        for m in measured:
            values = [v for v in by_seed(rows, task["name"], method["name"], lr, m.key).values() if v is not None]
            scores[m.key] = {**asdict(mean_interval(values, LEVEL)), "median": float(np.median(values)) if values else None}
        seconds = [r["facts"]["seconds"] for r in runs if finite(r["facts"].get("seconds"))]
        found.append(
            {
                "task": task["name"],
                "method": method["name"],
                "baseline": method["baseline"],
                "learning_rate": lr,
                "scores": scores,
                "seconds": float(np.mean(seconds)) if seconds else None,
                "diverged_seeds": sorted(r["seed"] for r in runs if not finished(r)),
            }
        )
    primary = measured[0]
    bars = {s["method"]: s["scores"][primary.key]["mean"] for s in found if s["baseline"]}
    for row in found:
        row["beats"] = [] if row["baseline"] else [name for name, bar in bars.items() if _beats(row["scores"][primary.key], bar, primary)]
    return found


def _beats(score: Mapping[str, Any], bar: float | None, measure: Measure) -> bool:
    """Whether the whole interval lies on the better side; one seed has no interval, and then the value itself counts."""
    if bar is None or score["mean"] is None:
        return False
    near = score["low"] if measure.higher_is_better else score["high"]
    near = score["mean"] if near is None else near
    return bool(near > bar if measure.higher_is_better else near < bar)


def paired(task: str, values: Mapping[str, Mapping[int, float | None]], measure: Measure) -> list[dict[str, Any]]:
    """Every pair of methods, later minus earlier, as ``pairs`` of study.json."""
    names = [(b, a) for a, b in combinations(values, 2)]
    raw = [paired_difference(values[a], values[b], LEVEL) for a, b in names]
    adjusted = holm([d.p_value for d in raw])
    tests = sum(p is not None for p in adjusted)
    out = []
    for (a, b), d, p in zip(names, raw, adjusted, strict=True):
        apart = p is not None and p < 1 - LEVEL
        better = None
        if apart and d.mean:
            better = a if (d.mean > 0) == measure.higher_is_better else b
        row: dict[str, Any] = {
            "task": task,
            "a": a,
            "b": b,
            "measure": measure.name,
            "difference": d.mean,
            "low": d.low,
            "high": d.high,
            "n": d.n,
        }
        row |= {"differences": list(d.differences), "p_value": d.p_value, "p_adjusted": p, "distinguishable": apart, "better": better}
        out.append({**row, "text": _pair_text(row, tests)})
    return out


def _pair_text(pair: Mapping[str, Any], tests: int) -> str:
    head = f"{pair['task']}: {pair['a']} − {pair['b']}"
    if pair["difference"] is None:
        return f"{head}: no seed finished in both"
    if pair["low"] is None:
        why = "one seed cannot support a verdict" if pair["n"] == 1 else "no spread between seeds, which cannot support a verdict"
        return f"{head} = {pair['difference']:+.4f} {pair['measure']}: {why}"
    places = decimals((pair["high"] - pair["low"]) / 2)
    text = f"{head} = {pair['difference']:+.{places}f} [{pair['low']:.{places}f}, {pair['high']:.{places}f}] {pair['measure']}, "
    text += f"{pair['n']} seeds: "
    if pair["better"]:
        return f"{text}{pair['better']} is better"
    corrected = f" after Holm's correction over {tests} pairs" if tests > 1 and (pair["low"] > 0 or pair["high"] < 0) else ""
    return f"{text}not distinguishable{corrected}"


def _averages(
    planned: Mapping[str, Any], rows: Sequence[Row], chosen: Mapping[str, Mapping[str, float | None]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(a row a method that has every counted task, pairs of them): per seed the mean over tasks of the task's own mean."""
    counted = [t for t in planned["tasks"] if t["counted"]]
    if len(counted) < 2:
        return [], []
    found, values = [], {}
    for method in planned["methods"]:
        name = method["name"]
        if not all(t["name"] in method["tasks"] for t in counted):
            continue
        parts: list[dict[int, float | None]] = []
        for t in counted:
            keys = [by_seed(rows, t["name"], name, chosen[t["name"]][name], key) for key in t["counted"]]
            parts.append({s: _mean([k.get(s) for k in keys]) for s in keys[0]})
        seeds = sorted(set().union(*parts))
        # what plays no dice was run once and holds for every seed
        parts = [{s: p.get(s, next(iter(p.values()))) for s in seeds} if not method["seeded"] else p for p in parts]
        means = {s: _mean([p.get(s) for p in parts]) for s in seeds}
        good = [v for v in means.values() if v is not None]
        interval = asdict(mean_interval(good, LEVEL))
        found.append({"method": name, "baseline": method["baseline"], **interval, "median": float(np.median(good)) if good else None})
        if not method["baseline"]:
            values[name] = means
    measure = Measure(key=AVERAGE, name=f"mean over {len(counted)} tasks", higher_is_better=True)
    return found, paired(AVERAGE, values, measure)


def _mean(values: Sequence[float | None]) -> float | None:
    """None when one is missing: an average over fewer tasks is another number."""
    return float(np.mean(values)) if values and all(v is not None for v in values) else None  # type: ignore[arg-type]


def _warnings(planned: Mapping[str, Any], rows: Sequence[Row], chosen: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    said = [f"{task} is left out: {why}" for task, why in planned["absent"].items()]
    for task in planned["tasks"]:
        name = task["name"]
        for method, lr in chosen[name].items():
            rates = sorted({r["learning_rate"] for r in rows if (r["task"], r["method"]) == (name, method)} - {None})
            if lr is None:
                continue
            if len(rates) == 1:
                said.append(f"{name}: {method} was given one learning rate only ({rate(lr)}), so it is not tuned")
            elif len({_tuned(rows, name, method, rate_) for rate_ in rates}) == 1:
                said.append(f"{name}: {method} scores the same at every learning rate tried, so {rate(lr)} is no choice")
            elif lr in (rates[0], rates[-1]):
                side = "smallest" if lr == rates[0] else "largest"
                said.append(f"{name}: the best learning rate of {method}, {rate(lr)}, is the {side} tried; its optimum may lie outside")
    lost = [f"{r['task']}: {r['method']} at {rate(r['learning_rate'])} seed {r['seed']}" for r in rows if not finished(r)]
    if lost:
        said.append(f"diverged and left out, {len(lost)} of {len(rows)} fits: {'; '.join(lost)}")
    return said


def _tuned(rows: Sequence[Row], task: str, method: str, learning_rate: float) -> tuple[float | None, ...]:
    """Tuning scores at one rate, of the first seed: each tuning seed would do."""
    mine = [r for r in rows if (r["task"], r["method"], r["learning_rate"]) == (task, method, learning_rate)]
    return tuple(r["tuned"] for r in mine[:1])


def _verdict(planned: Mapping[str, Any], rows: Sequence[Row], found: Mapping[str, Any]) -> str:
    said = []
    clauses = _clauses(found["pairs"], AVERAGE)
    if clauses:
        tasks = [t["name"] for t in planned["tasks"] if t["counted"]]
        without = f", without {words(list(planned['absent']))}" if planned["absent"] else ""
        said.append(f"Average over {len(tasks)} tasks ({', '.join(tasks)}{without}): {clauses}.")
    for task in planned["tasks"]:
        clauses = _clauses(found["pairs"], task["name"])
        if clauses:
            said.append(f"{task['name']} ({measures_of(task)[0].name}): {clauses}.")
    if not said:
        return "One method alone: nothing is compared; the tables hold what was measured."
    seeds = sorted({p["n"] for p in found["pairs"] if p["n"]})
    over = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}" if seeds else "no"
    return " ".join([*said, f"95 % level, {over} paired seeds, Holm-corrected within a task."])


def _clauses(pairs: Sequence[Mapping[str, Any]], task: str) -> str:
    """'a is better than b and c; b and c are not distinguishable'; many undecided pairs in one clause, the table has them."""
    beaten: dict[str, list[str]] = {}
    undecided, untested = [], []
    for p in (p for p in pairs if p["task"] == task):
        if p["p_adjusted"] is None:
            untested.append((p["b"], p["a"]))
        elif p["better"]:
            beaten.setdefault(p["better"], []).append(p["b"] if p["better"] == p["a"] else p["a"])
        else:
            undecided.append((p["b"], p["a"]))
    said = [f"{better} is better than {words(worse)}" for better, worse in sorted(beaten.items(), key=lambda item: -len(item[1]))]
    for alone, how in ((undecided, "are distinguishable"), (untested, "can be judged")):
        if len(alone) > 1 and len(alone) == len(undecided) + len(untested) and not said:
            return f"no two of {words(list(dict.fromkeys(n for pair in alone for n in pair)))} {how}"
    if len(undecided) > 2:
        said.append("no other two are distinguishable")
    else:
        said += [f"{b} and {a} are not distinguishable" for b, a in undecided]
    return "; ".join(said + [f"{b} and {a} cannot be judged" for b, a in untested])
