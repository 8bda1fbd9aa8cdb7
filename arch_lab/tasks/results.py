"""What the fits of a study over tasks show: standings, paired differences, averages over tasks, warnings, the verdict.

A row is a plain mapping as study.json holds it: task, method, learning_rate (None: it has none), seed, status, tuned, scores, facts.
Baselines stand next to the methods and in no pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from arch_lab.judge.intervals import mean_interval
from arch_lab.judge.measures import Measure
from arch_lab.judge.pairs import compare_pairs
from arch_lab.judge.records import Pair, Record, Standing
from arch_lab.judge.selection import edge_warnings
from arch_lab.judge.standings import by_seed, standing, with_beaten
from arch_lab.judge.verdict import verdict_over_tasks
from arch_lab.units import rate, words

Row = Mapping[str, Any]
Chosen = Mapping[str, Mapping[str, float | None]]  # task -> method -> learning rate
AVERAGE = "average"


def measures_of(task: Mapping[str, Any]) -> tuple[Measure, ...]:
    return tuple(Measure(**m) for m in task["measures"])


def summarise(planned: Mapping[str, Any], rows: Sequence[Row], chosen: Chosen) -> dict[str, Any]:
    """The judged part of study.json: ``summary`` (a row per task and method), ``pairs``, ``averages``, ``warnings``, ``verdict``."""
    records = [Record.of_fit(row) for row in rows]
    summary: list[Standing] = []
    pairs: list[Pair] = []
    for task in planned["tasks"]:
        name, primary = task["name"], measures_of(task)[0]
        own = [r for r in records if r.task == name]
        standings = _standings(planned, task, own, chosen[name])
        summary += standings
        values = {
            s.arm: by_seed(own, s.arm, s.learning_rate, primary.key) for s in standings if not s.baseline
        }
        pairs += compare_pairs(values, primary, task=name)
    averages, average_pairs = _averages(planned, records, chosen)
    pairs += average_pairs
    return {
        "summary": [_summary_row(row) for row in summary],
        "pairs": [pair.to_json() for pair in pairs],
        "averages": averages,
        "warnings": _warnings(planned, records, chosen),
        "verdict": {"text": verdict_over_tasks(pairs, _questions(planned))},
    }


def _standings(
    planned: Mapping[str, Any],
    task: Mapping[str, Any],
    records: Sequence[Record],
    rates: Mapping[str, float | None],
) -> list[Standing]:
    """Every method of the task, with the baselines that it beats."""
    measures = measures_of(task)
    standings = [
        standing(
            records,
            method["name"],
            rates[method["name"]],
            measures,
            task=task["name"],
            baseline=method["baseline"],
        )
        for method in planned["methods"]
        if task["name"] in method["tasks"]
    ]
    bars = {s.arm: s.scores[measures[0].key].mean for s in standings if s.baseline}
    return with_beaten(standings, bars, measures[0])


def _summary_row(row: Standing) -> dict[str, Any]:
    """A standing as study.json holds it."""
    return {
        "task": row.task,
        "method": row.arm,
        "baseline": row.baseline,
        "learning_rate": row.learning_rate,
        "scores": {
            key: {**asdict(interval), "median": row.medians[key]} for key, interval in row.scores.items()
        },
        "seconds": row.seconds,
        "diverged_seeds": list(row.diverged_seeds),
        "beats": list(row.beats),
    }


def _averages(
    planned: Mapping[str, Any], records: Sequence[Record], chosen: Chosen
) -> tuple[list[dict[str, Any]], list[Pair]]:
    """(a row per method that has every counted task, pairs of methods): per seed the mean over tasks of the task's own mean."""
    counted = [task for task in planned["tasks"] if task["counted"]]
    if len(counted) < 2:
        return [], []
    rows, values = [], {}
    for method in planned["methods"]:
        name = method["name"]
        if not all(task["name"] in method["tasks"] for task in counted):
            continue
        means = _means_by_seed(records, method, counted, chosen)
        good = [value for value in means.values() if value is not None]
        interval = asdict(mean_interval(good))
        rows.append(
            {
                "method": name,
                "baseline": method["baseline"],
                **interval,
                "median": float(np.median(good)) if good else None,
            }
        )
        if not method["baseline"]:
            values[name] = means
    measure = Measure(key=AVERAGE, name=f"mean over {len(counted)} tasks", higher_is_better=True)
    return rows, compare_pairs(values, measure, task=AVERAGE)


def _means_by_seed(
    records: Sequence[Record], method: Mapping[str, Any], counted: Sequence[Mapping[str, Any]], chosen: Chosen
) -> dict[int, float | None]:
    """Seed -> mean over ``counted`` tasks of the mean of the measures that each task counts."""
    name = method["name"]
    tasks: list[dict[int, float | None]] = []
    for task in counted:
        own = [r for r in records if r.task == task["name"]]
        scores = [by_seed(own, name, chosen[task["name"]][name], key) for key in task["counted"]]
        tasks.append({seed: _mean([by_key.get(seed) for by_key in scores]) for seed in scores[0]})
    seeds = sorted(set().union(*tasks))
    if not method["seeded"]:  # chance plays no part: run once, valid for every seed
        tasks = [{seed: task.get(seed, next(iter(task.values()))) for seed in seeds} for task in tasks]
    return {seed: _mean([task.get(seed) for task in tasks]) for seed in seeds}


def _mean(values: Sequence[float | None]) -> float | None:
    """None when one is missing: an average over fewer tasks is another number."""
    return float(np.mean(values)) if values and all(v is not None for v in values) else None  # type: ignore[arg-type]


def _warnings(planned: Mapping[str, Any], records: Sequence[Record], chosen: Chosen) -> list[str]:
    warnings = [f"{task} is left out: {why}" for task, why in planned["absent"].items()]
    for task in planned["tasks"]:
        own = [r for r in records if r.task == task["name"]]
        selected = {method: lr for method, lr in chosen[task["name"]].items() if lr is not None}
        warnings += edge_warnings(own, selected, measures_of(task)[0])
    lost = [
        f"{r.task}: {r.arm} at {rate(r.learning_rate)} seed {r.seed}"
        for r in records
        if r.status != "finished"
    ]
    if lost:
        warnings.append(f"diverged and left out, {len(lost)} of {len(records)} fits: {'; '.join(lost)}")
    return warnings


def _questions(planned: Mapping[str, Any]) -> dict[str, str]:
    """Task -> the words its sentence of the verdict begins with; the average over tasks first."""
    tasks = [task["name"] for task in planned["tasks"] if task["counted"]]
    absent = f", without {words(list(planned['absent']))}" if planned["absent"] else ""
    average = {AVERAGE: f"Average over {len(tasks)} tasks ({', '.join(tasks)}{absent})"}
    return average | {
        task["name"]: f"{task['name']} ({measures_of(task)[0].name})" for task in planned["tasks"]
    }
