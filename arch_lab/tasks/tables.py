"""The tables of a study over tasks as plain cells: the terminal, the page and the README print the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arch_lab import units
from arch_lab.judge.measures import Measure
from arch_lab.report.cells import Table
from arch_lab.tasks.results import measures_of

Study = Mapping[str, Any]
PLACES = 3  # decimals of a score: a task's own noise is larger than a thousandth


def all_tables(study: Study) -> Iterator[Table]:
    """In reading order: everything at a glance, each task, pairs, rates, what was compared and on what."""
    yield overview(study)
    for task in study["tasks"]:
        yield of_task(study, task)
    if study["pairs"]:
        yield pairs(study)
    if any(m["tuned"] for m in study["methods"]):
        yield rates(study)
    yield methods(study)
    yield tasks(study)


def overview(study: Study) -> Table:
    """Methods x tasks: the first measure of each task, mean ± half of its interval; the average where one is meant."""
    cells = {(s["task"], s["method"]): s["scores"] for s in study["summary"]}
    averages = {a["method"]: a for a in study["averages"]}
    heads = ["method", *(f"{t['name']}, {arrowed(measures_of(t)[0])}" for t in study["tasks"])]
    heads += ["average ↑"] if averages else []
    rows = []
    for method in study["methods"]:
        name = method["name"]
        row = [f"{name} (baseline)" if method["baseline"] else name]
        for task in study["tasks"]:
            scores = cells.get((task["name"], name))
            row.append(short_interval(scores[measures_of(task)[0].key]) if scores else units.DASH)
        if averages:
            row.append(short_interval(averages[name]) if name in averages else units.DASH)
        rows.append(row)
    counted = [t["name"] for t in study["tasks"] if t["counted"]]
    n = len(study["seeds"])
    note = (
        f"mean ± half of the 95 % Student-t interval over {n} seeds" if n > 1 else "one seed, so no interval"
    )
    if averages:
        note += f"; average over {', '.join(counted)}"
        note += f"; not in it: {', '.join(study['absent'])}" if study["absent"] else ""
    return Table(title="scores", headers=heads, rows=rows, note=note, drawing="scores")


def arrowed(measure: Measure) -> str:
    return f"{measure.name} {'↑' if measure.higher_is_better else '↓'}"


def short_interval(interval: Mapping[str, Any]) -> str:
    if interval["mean"] is None:
        return units.DASH
    if interval["low"] is None:
        return f"{interval['mean']:.{PLACES}f}"
    return f"{interval['mean']:.{PLACES}f} ± {(interval['high'] - interval['low']) / 2:.{PLACES}f}"


def of_task(study: Study, task: Mapping[str, Any]) -> Table:
    measured = measures_of(task)
    tuned = any(m["tuned"] for m in study["methods"] if task["name"] in m["tasks"])
    heads = [
        "method",
        *(["learning rate"] if tuned else []),
        f"median {measured[0].name}",
        *map(arrowed, measured),
        "beats",
        "seconds per fit",
    ]
    rows = []
    for s in (s for s in study["summary"] if s["task"] == task["name"]):
        row = [f"{s['method']} (baseline)" if s["baseline"] else s["method"]]
        row += [units.rate(s["learning_rate"])] if tuned else []
        middle = s["scores"][measured[0].key]["median"]
        row.append(units.DASH if middle is None else f"{middle:.{PLACES}f}")
        row += [bounded(s["scores"][m.key]) for m in measured]
        row += [
            ", ".join(s["beats"]) or units.DASH,
            units.DASH if s["seconds"] is None else f"{s['seconds']:.3g}",
        ]
        rows.append(row)
    facts = ", ".join(
        f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}"
        for key, value in task["facts"].items()
    )
    note = (
        "mean [95 % interval]; beats: the baselines that lie outside the whole interval of the first measure"
    )
    words = (0, len(heads) - 2)
    return Table(
        title=task["name"], headers=heads, rows=rows, note=f"{facts}; {note}" if facts else note, words=words
    )


def bounded(interval: Mapping[str, Any]) -> str:
    if interval["mean"] is None:
        return units.DASH
    if interval["low"] is None:
        return f"{interval['mean']:.{PLACES}f}"
    return f"{interval['mean']:.{PLACES}f} [{interval['low']:.{PLACES}f}, {interval['high']:.{PLACES}f}]"


def pairs(study: Study) -> Table:
    def number(value: float | None) -> str:
        return units.DASH if value is None else f"{value:.2g}"

    rows = []
    for p in study["pairs"]:
        gap = bounded({"mean": p["difference"], "low": p["low"], "high": p["high"]})
        verdict = (
            f"{p['better']} is better"
            if p["better"]
            else "not distinguishable"
            if p["p_adjusted"] is not None
            else "cannot be judged"
        )
        rows.append(
            [
                p["task"],
                f"{p['a']} − {p['b']}",
                gap,
                number(p["p_value"]),
                number(p["p_adjusted"]),
                str(p["n"]),
                verdict,
            ]
        )
    heads = ["task", "difference of", "mean [95 % interval]", "p", "p, Holm", "seeds", "verdict"]
    note = "paired by seed, first measure of each task; the verdict uses Holm's correction over the pairs of a task"
    return Table(title="paired differences", headers=heads, rows=rows, note=note, words=(0, 1, 6))


def rates(study: Study) -> Table:
    """Tuning score of every rate: what the choice was made by."""
    names = [m["name"] for m in study["methods"] if m["tuned"]]
    rows = []
    for task in study["tasks"]:
        at = sorted({r["learning_rate"] for r in study["rows"] if r["task"] == task["name"]} - {None})
        for rate in at:
            row = [task["name"], units.rate(rate)]
            for name in names:
                mine = [
                    r
                    for r in study["rows"]
                    if (r["task"], r["method"], r["learning_rate"]) == (task["name"], name, rate)
                ]
                mine = [r for r in mine if r["seed"] in study["tuning_seeds"]]
                row.append(_tuned(mine, chosen=study["chosen"][task["name"]].get(name) == rate))
            rows.append(row)
    note = "first measure on rows held out of the training split, mean over the tuning seeds; * chosen"
    return Table(title="learning rates", headers=["task", "rate", *names], rows=rows, note=note)


def _tuned(rows: Sequence[Mapping[str, Any]], *, chosen: bool) -> str:
    good = [r["tuned"] for r in rows if r["tuned"] is not None]
    if not rows:
        return units.DASH
    if len(good) < len(rows):
        return "diverged"
    return f"{sum(good) / len(good):.{PLACES}f}{' *' if chosen else ''}"


def methods(study: Study) -> Table:
    keys = list(dict.fromkeys(key for m in study["methods"] for key in m["facts"]))
    rows = []
    for m in study["methods"]:
        kind = "baseline" if m["baseline"] else "compared"
        rows.append([m["name"], kind, *(_fact(m["facts"].get(key)) for key in keys)])
    return Table(title="methods", headers=["method", "is", *keys], rows=rows, words=(0, 1))


def tasks(study: Study) -> Table:
    keys = list(dict.fromkeys(key for t in study["tasks"] for key in t["facts"]))
    rows = [
        [t["name"], ", ".join(map(arrowed, measures_of(t))), *(_fact(t["facts"].get(key)) for key in keys)]
        for t in study["tasks"]
    ]
    rows += [[name, f"left out: {why}", *(units.DASH for _ in keys)] for name, why in study["absent"].items()]
    return Table(title="tasks", headers=["task", "measures", *keys], rows=rows, words=(0, 1))


def _fact(value: Any) -> str:
    if value is None:
        return units.DASH
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
