"""The terminal's tables, for a window of 100 columns: the plan before training, the results after.

Names fold onto a second line rather than end in an ellipsis; what is wide becomes two tables, never a clipped one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from arch_lab import files
from arch_lab.report import units
from arch_lab.report.measures import measures, primary
from arch_lab.report.statistics import diverged, finite

Study = Mapping[str, Any]
CSV_FIRST = ("arm", "architecture", "learning_rate", "seed", "status", "selected")
CSV_LAST = ("tokens_per_second", "peak_memory_bytes", "tokens", "steps", "flops", "seconds")


def _table(headers: Sequence[str], words: Sequence[int] = (0,)) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i in words else "right", overflow="fold")
    return table


def _show(console: Console, title: str, table: Table, note: str = "") -> None:
    """Title above the table rather than in it: rich would wrap it to the table's width."""
    console.print(f"\n[bold]{title}[/bold]" + (f" [dim]({note})[/dim]" if note else ""), highlight=False)
    console.print(table)


def _row(table: Table, *cells: Any, style: str = "") -> None:
    # a name with brackets is a name, not console markup
    table.add_row(*(cell if isinstance(cell, Text) else escape(str(cell)) for cell in cells), style=style)


def render_plan(plan: Study, console: Console) -> None:
    """What will be trained. ``plan`` holds study.json's keys up to ``arms``; ``runs`` (their number), ``learning_rates``,
    ``seeds``, ``misses``, ``warnings`` and each arm's ``estimate`` (seconds_per_run, memory_bytes) are shown when present."""
    _budget_line(plan, console)
    _arms_tables(plan, console)
    console.print()
    rates, seeds = plan.get("learning_rates") or [], plan.get("seeds") or []
    seeds = list(range(seeds)) if isinstance(seeds, int) else seeds
    if rates and seeds:
        full = len(plan["arms"]) * len(rates) * len(seeds)
        runs = plan.get("runs", full)
        listed = ", ".join(units.rate(r) for r in rates)
        how = f"arms {len(plan['arms'])}, learning rates {len(rates)} ({listed}), seeds {len(seeds)}"
        fewer = "; not every seed at every rate" if runs < full else ""
        console.print(f"runs: {runs} ({how}{fewer})", highlight=False)
        times: list[Any] = [(arm.get("estimate") or {}).get("seconds_per_run") for arm in plan["arms"]]
        if all(finite(t) for t in times):
            console.print(f"time: about {units.duration(sum(times) / len(times) * runs)} in all, a rough estimate", highlight=False)
    _warnings(plan, console)


def render_results(study: Study, console: Console) -> None:
    """Results, cost, learning rates and verdict of study.json."""
    _budget_line(study, console)
    _show(console, "results", _results_table(study), "held-out split, mean ± 95 % interval over seeds, lower is better (↑: higher)")
    _arms_tables(study, console)
    note = f"tuning {primary(study).name}, mean over seeds; * chosen, × diverged"
    _show(console, "learning rates", _sensitivity_table(study), note)
    console.print()
    _warnings(study, console)
    pairs = "\n".join(p["text"] for p in study["verdict"]["pairs"])
    text = study["verdict"]["text"] + (f"\n\n{pairs}" if pairs else "")
    console.print(Panel(Text(text), title="verdict", title_align="left", border_style="bold"))


def _budget_line(study: Study, console: Console) -> None:
    target = study.get("budget") or {}
    tolerance = f" within {100 * study['tolerance']:g} %" if finite(study.get("tolerance")) else ""
    console.print(f"[bold]{escape(str(study['study']))}[/bold]: {escape(units.budget_words(target))}{tolerance}", highlight=False)
    if study.get("matched") is False:
        console.print("[bold red]budgets NOT matched[/bold red]: differences may come from size or compute", highlight=False)
        for miss in study.get("misses") or []:
            console.print(f"  {escape(str(miss['text']))}", style="red", highlight=False)


def _deviation(value: float | None, tolerance: float | None) -> Text:
    if not finite(value):
        return Text(units.DASH)
    inside = not finite(tolerance) or abs(value) <= tolerance  # type: ignore[arg-type, operator]
    return Text(f"{'✓' if inside else '✗'} {units.percent(value)}", style="green" if inside else "bold red")


def _arms_tables(study: Study, console: Console) -> None:
    tolerance = study.get("tolerance")
    measured = {s["arm"]: s for s in study.get("summary") or []}
    last = ["tokens\nper s", "peak\nmemory"] if measured else ["run,\nabout", "memory,\nabout"]
    size = _table(["arm", "width × depth, ffn", "embedding", "head", "body", "total", "off budget"])
    cost = _table(["arm", "FLOPs per\ntoken", "tokens", "steps", "training\nFLOPs", "off\nbudget", "state", *last])
    for arm in study["arms"]:
        groups, deviation = arm["parameters"], arm.get("deviation") or {}
        counts = [units.short(groups.get(key), digits=4) for key in ("embedding", "head", "body", "total")]
        _row(
            size,
            arm["name"],
            f"{arm['width']} × {arm['depth']}, {arm['ffn_width']}",
            *counts,
            _deviation(deviation.get("params"), tolerance),
        )
        work = [
            units.short(arm.get("flops_per_token")),
            units.short(arm.get("tokens")),
            units.exact(arm.get("steps")),
            units.short(arm.get("train_flops")),
        ]
        length = [deviation[axis] for axis in ("train_flops", "tokens", "seconds", "flops_per_token") if axis in deviation]
        spent = _deviation(max(length, key=abs, default=None), tolerance)
        if measured:
            run = measured.get(arm["name"], {})
            speed = [units.short(run.get("tokens_per_second")), units.memory(run.get("peak_memory_bytes"))]
        else:
            guess = arm.get("estimate") or {}
            speed = [units.duration(guess.get("seconds_per_run")), units.memory(guess.get("memory_bytes"))]
        _row(cost, arm["name"], *work, spent, units.memory(arm.get("state_bytes")), *speed)
    _show(console, "size", size, "parameters")
    at = f" at {study['sequence_length']} tokens" if study.get("sequence_length") else ""
    _show(console, "cost", cost, f"training, exact count; state = memory per sequence while generating{at}")


def _results_table(study: Study) -> Table:
    judged, *others = measures(study)
    table = _table(["arm", "learning rate", *(m.head for m in (judged, *others)), "seeds", "beats"], words=(0, len(others) + 4))
    total = len({r["seed"] for r in study["results"]})
    for s in sorted(study["summary"], key=lambda s: (s[judged.key]["mean"] is None, s[judged.key]["mean"])):
        loss = s[judged.key]
        means = [units.number((s.get(m.key) or {}).get("mean")) for m in others]
        beats = ", ".join(s.get("beats") or []) or ("no baseline" if study.get("baselines") else units.DASH)
        _row(table, s["arm"], units.rate(s["learning_rate"]), units.plus_minus(loss), *means, f"{loss['n']}/{total}", beats)
    for b in study.get("baselines") or []:
        values = [units.number(b.get(m.key)) for m in (judged, *others)]
        _row(table, b["name"], units.DASH, *values, "", "(baseline)", style="dim")
    return table


def _sensitivity_table(study: Study) -> Table:
    """Rows are learning rates, so that any number of them fits; * marks the choice, × the seeds that diverged."""
    names, judged = [arm["name"] for arm in study["arms"]], primary(study)
    table = _table(["learning rate", *(escape(n) for n in names)])
    for rate in sorted({r["learning_rate"] for r in study["results"]}):
        cells: list[Any] = []
        for name in names:
            runs = [r for r in study["results"] if r["arm"] == name and r["learning_rate"] == rate]
            good = [r[judged.tuned] for r in runs if not diverged(r, judged) and finite(r.get(judged.tuned))]
            lost = sum(diverged(r, judged) for r in runs)
            chosen = study["selected"].get(name) == rate
            text = f"{sum(good) / len(good):.4f}" if good else "" if lost else units.DASH
            text += f" ×{lost}/{len(runs)}" if lost else ""
            cells.append(Text(text.strip() + (" *" if chosen else "  "), style="red" if lost else "bold" if chosen else ""))
        _row(table, units.rate(rate), *cells)
    return table


def _warnings(study: Study, console: Console) -> None:
    for line in study.get("warnings") or []:
        console.print(f"[yellow]warning:[/yellow] {escape(str(line))}", highlight=False)


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
