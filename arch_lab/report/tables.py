"""The terminal's tables of a study that trains: the plan before training, the results after."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from arch_lab import files, units
from arch_lab.console import Table, say, show_verdict
from arch_lab.judge.measures import measures, primary
from arch_lab.judge.records import is_finite
from arch_lab.report import cells
from arch_lab.report.cells import readme
from arch_lab.report.rows import better_than, diverged

Study = Mapping[str, Any]
CSV_FIRST = ("arm", "architecture", "learning_rate", "seed", "status", "selected")
CSV_LAST = ("tokens_per_second", "peak_memory_bytes", "tokens", "steps", "flops", "seconds")


def _show(console: Console, title: str, table: Table, note: str = "") -> None:
    """Title above the table rather than in it: the table's width does not limit it."""
    say(console, "\n", (title, "bold"), (f" ({note})" if note else "", "dim"))
    console.print(table)


def render_plan(plan: Study, console: Console) -> None:
    """What will be trained. ``plan`` holds study.json's keys up to ``arms``; ``runs`` (their number), ``learning_rates``,
    ``seeds``, ``misses``, ``warnings`` and each arm's ``estimate`` (seconds_per_run, memory_bytes) are shown when present."""
    _budget_line(plan, console)
    _arms_tables(plan, console)
    say(console)
    rates, seeds = plan.get("learning_rates") or [], plan.get("seeds") or []
    seeds = list(range(seeds)) if isinstance(seeds, int) else seeds
    if rates and seeds:
        full = len(plan["arms"]) * len(rates) * len(seeds)
        runs = plan.get("runs", full)
        listed = ", ".join(units.rate(r) for r in rates)
        how = f"arms {len(plan['arms'])}, learning rates {len(rates)} ({listed}), seeds {len(seeds)}"
        fewer = "; not every seed at every rate" if runs < full else ""
        say(console, f"runs: {runs} ({how}{fewer})")
        times: list[Any] = [(arm.get("estimate") or {}).get("seconds_per_run") for arm in plan["arms"]]
        if all(is_finite(t) for t in times):
            seconds = sum(times) / len(times) * runs / plan.get("workers", 1)
            say(console, f"time: about {units.duration(seconds)} in all, a rough estimate")
    _warnings(plan, console)


def render_results(study: Study, console: Console) -> None:
    """Results, cost, learning rates and verdict of study.json."""
    _budget_line(study, console)
    _show(
        console,
        "results",
        results_table(study),
        "held-out split, mean ± 95 % interval over seeds, lower is better (↑: higher)",
    )
    _arms_tables(study, console)
    note = f"tuning {primary(study).name}, mean (number of seeds); * chosen, × diverged"
    _show(console, "learning rates", _sensitivity_table(study), note)
    say(console)
    _warnings(study, console)
    pairs = study["verdict"]["pairs"]
    # the verdict on two arms is the sentence of their one pair
    lines = [p["text"] for p in pairs] if len(pairs) > 1 else []
    show_verdict(console, "\n".join([study["verdict"]["text"], *([""] if lines else []), *lines]))


def markdown(study: Study) -> str:
    """Verdict, command and result table for a README."""
    shown = results_table(study)
    words = tuple(sorted(shown.words))
    heads, rows = (
        [" ".join(head.split()) for head in shown.heads],
        [[cell.plain for cell in row] for row in shown.rows],
    )
    note = "held-out split, mean ± 95 % interval over seeds"
    return readme(study, [cells.Table(title="results", headers=heads, rows=rows, note=note, words=words)])


def _budget_line(study: Study, console: Console) -> None:
    target = study.get("budget") or {}
    tolerance = f" within {100 * study['tolerance']:g} %" if is_finite(study.get("tolerance")) else ""
    say(console, (str(study["study"]), "bold"), f": {units.budget_words(target)}{tolerance}")
    if study.get("matched") is False:
        say(console, ("budgets NOT matched", "bold red"), ": differences may come from size or compute")
        for miss in study.get("misses") or []:
            say(console, (f"  {miss['text']}", "red"))


def _deviation(value: float | None, tolerance: float | None) -> Text:
    if not is_finite(value):
        return Text(units.DASH)
    inside = not is_finite(tolerance) or abs(value) <= tolerance  # type: ignore[arg-type, operator]
    return Text(f"{'✓' if inside else '✗'} {units.percent(value)}", style="green" if inside else "bold red")


def _arms_tables(study: Study, console: Console) -> None:
    _show(console, "size", _size_table(study), "parameters")
    at = f" at {study['sequence_length']} tokens" if study.get("sequence_length") else ""
    _show(
        console,
        "cost",
        _cost_table(study),
        f"training, exact count; state = memory per sequence while generating{at}",
    )


def _size_table(study: Study) -> Table:
    table = Table(["arm", "width × depth, ffn", "embedding", "head", "body", "total", "off budget"])
    for arm in study["arms"]:
        shape = f"{arm['width']} × {arm['depth']}, {arm['ffn_width']}"
        counts = [
            units.short(arm["parameters"].get(key), digits=4)
            for key in ("embedding", "head", "body", "total")
        ]
        table.add(
            arm["name"],
            shape,
            *counts,
            _deviation((arm.get("deviation") or {}).get("params"), study.get("tolerance")),
        )
    return table


def _cost_table(study: Study) -> Table:
    measured = {s["arm"]: s for s in study.get("summary") or []}
    last = ["tokens per s", "peak memory"] if measured else ["run, about", "memory, about"]
    table = Table(
        ["arm", "FLOPs per token", "tokens", "steps", "training FLOPs", "off budget", "state", *last]
    )
    for arm in study["arms"]:
        deviation = arm.get("deviation") or {}
        length = [
            deviation[axis]
            for axis in ("train_flops", "tokens", "seconds", "flops_per_token")
            if axis in deviation
        ]
        if measured:
            run = measured.get(arm["name"], {})
            speed = [units.short(run.get("tokens_per_second")), units.memory(run.get("peak_memory_bytes"))]
        else:
            guess = arm.get("estimate") or {}
            speed = [units.duration(guess.get("seconds_per_run")), units.memory(guess.get("memory_bytes"))]
        table.add(
            arm["name"],
            units.short(arm.get("flops_per_token")),
            units.short(arm.get("tokens")),
            units.exact(arm.get("steps")),
            units.short(arm.get("train_flops")),
            _deviation(max(length, key=abs, default=None), study.get("tolerance")),
            units.memory(arm.get("state_bytes")),
            *speed,
        )
    return table


def results_table(study: Study) -> Table:
    judged, *others = measures(study)
    table = Table(
        ["arm", "learning rate", *(m.head for m in (judged, *others)), "seeds", "better than"],
        words=(0, len(others) + 4),
    )
    total = len({r["seed"] for r in study["results"]})
    for s in sorted(study["summary"], key=lambda s: (s[judged.key]["mean"] is None, s[judged.key]["mean"])):
        loss = s[judged.key]
        means = [units.number((s.get(m.key) or {}).get("mean")) for m in others]
        rivals = ", ".join(better_than(study, s["arm"])) or "nothing shown"
        table.add(
            s["arm"],
            units.rate(s["learning_rate"]),
            units.plus_minus(loss),
            *means,
            f"{loss['n']}/{total}",
            rivals,
        )
    for b in study.get("baselines") or []:
        values = [units.number(b.get(m.key)) for m in (judged, *others)]
        table.add(b["name"], units.DASH, *values, "", "(baseline)", style="dim")
    return table


def _sensitivity_table(study: Study) -> Table:
    """Rows are learning rates, so that any number of them fits; * marks the choice, × the seeds that diverged."""
    names = [arm["name"] for arm in study["arms"]]
    table = Table(["learning rate", *names], words=())
    for rate in sorted({r["learning_rate"] for r in study["results"]}):
        table.add(units.rate(rate), *(_tuning_cell(study, name, rate) for name in names))
    return table


def _tuning_cell(study: Study, arm: str, rate: float) -> Text:
    """'2.4312 (3) *': mean of the seeds that finished, their number, and whether this rate was chosen."""
    judged = primary(study)
    runs = [r for r in study["results"] if r["arm"] == arm and r["learning_rate"] == rate]
    good = [r[judged.tuned] for r in runs if not diverged(r, judged) and is_finite(r.get(judged.tuned))]
    lost = sum(diverged(r, judged) for r in runs)
    chosen = study["selected"].get(arm) == rate
    text = f"{sum(good) / len(good):.4f} ({len(good)})" if good else "" if lost else units.DASH
    text += f" ×{lost}/{len(runs)}" if lost else ""
    return Text(text.strip() + (" *" if chosen else "  "), style="red" if lost else "bold" if chosen else "")


def _warnings(study: Study, console: Console) -> None:
    for line in study.get("warnings") or []:
        say(console, ("warning:", "yellow"), f" {line}")


def write_csv(study: Study, path: Path) -> Path:
    """``results.csv``: one row per run, diverged ones with empty values; replaced atomically. Returns ``path``."""
    stream = io.StringIO()
    measured = [m.key for m in measures(study)] + [primary(study).tuned]
    writer = csv.DictWriter(stream, [*CSV_FIRST, *measured, *CSV_LAST], extrasaction="ignore", restval="")
    writer.writeheader()
    for r in study["results"]:
        writer.writerow({**r, "selected": int(study["selected"].get(r["arm"]) == r["learning_rate"])})
    files.write_text(path, stream.getvalue())
    return Path(path)
