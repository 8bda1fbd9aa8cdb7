"""The tables of a throughput study as plain cells: the terminal, the page and the README print the same ones.

Rows run over sequence lengths, columns over arms. A cell that could not be measured says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from arch_lab import units
from arch_lab.judge.crossover import words
from arch_lab.report.cells import Table, readme
from arch_lab.throughput.results import LEVELS, MODES
from arch_lab.throughput.timing import MEASURED

Study = Mapping[str, Any]
TITLES = {
    "mixer": "sequence mixer alone (mean layer)",
    "layer": "one layer (mean layer)",
    "model": "whole model",
}
UNITS = {
    "forward": "forward",
    "step": "training step",
    "prefill": "prefill of one prompt",
    "decode": "decoding after T tokens",
}


def series_of(study: Study) -> list[tuple[str, str, bool]]:
    """(level, mode, compiled) there are rows of, mixers first."""
    there = {(r["level"], r["mode"], r["compiled"]) for r in study["rows"]}
    return [(lv, m, c) for lv in LEVELS for m in MODES for c in (False, True) if (lv, m, c) in there]


def all_tables(study: Study) -> Iterator[Table]:
    """In reading order: what was compared, who is faster from where, ratios, speeds, memory, utilisation, what did not run."""
    yield arms(study)
    yield crossings(study)
    for level in LEVELS:
        if any(r["level"] == level for r in study["ratios"]):
            yield ratio_table(study, level)
    for series in series_of(study):
        yield speeds(study, *series)
    if any(r["mode"] != "decode" for r in study["rows"]):
        yield memory(study)
        yield utilisation(study)
    if any(r["mode"] == "decode" for r in study["rows"]):
        yield states(study)
    if any(r["status"] != MEASURED for r in study["rows"]):
        yield gaps(study)


def arms(study: Study) -> Table:
    axis = study["budget"]["match_on"]
    heads = [
        "arm",
        "architecture",
        "width × depth, ffn",
        f"parameters ({axis})",
        "off budget",
        "with the embedding",
    ]
    longest = max(int(t) for t in study["arms"][0]["parameters_at"])
    rows = []
    for arm in study["arms"]:
        options = ", ".join(f"{k} {v}" for k, v in arm["options"].items())
        counts = arm["parameters"]
        matched = counts["body"] + counts["head"] if axis == "body+head" else counts[axis]
        size = f"{arm['width']} × {arm['depth']}, {arm['ffn_width']}"
        described = arm["architecture"] + (f" ({options})" if options else "")
        total = [units.percent(arm["deviation"].get("params")), f"{counts['total']:,}"]
        rows.append(
            [arm["name"], described, size, f"{matched:,}", *total, f"{arm['parameters_at'][str(longest)]:,}"]
        )
    note = f"matched at {study['match_length']:,} tokens; parameters per position grow with T"
    return Table(
        title="what was compared",
        headers=[*heads, f"at T = {longest:,}"],
        rows=rows,
        note=note,
        words=(0, 1, 2),
    )


def crossings(study: Study) -> Table:
    rows = [[c["level"], _mode(c), c["peer"], words(c)] for c in study["crossovers"]]
    order = {level: i for i, level in enumerate(reversed(LEVELS))}
    rows.sort(key=lambda row: order[row[0]])
    note = "the length from which it takes less time per token, by the medians [by the upper quartiles, by the lower]"
    return Table(
        title=f"crossover, the length from which {study['subject']} is faster",
        headers=["level", "mode", "than", "from"],
        rows=rows,
        note=note,
        words=(0, 1, 2, 3),
        drawing="ratios",
    )


def ratio_table(study: Study, level: str) -> Table:
    pairs = [r for r in study["ratios"] if r["level"] == level]
    columns = list(
        dict.fromkeys(
            (r["peer"], r["mode"], r["compiled"]) for r in sorted(pairs, key=lambda r: MODES.index(r["mode"]))
        )
    )
    cells = {(r["tokens"], r["peer"], r["mode"], r["compiled"]): r for r in pairs}
    rows = []
    for tokens in sorted({r["tokens"] for r in pairs}):
        row = [f"{tokens:,}"]
        for column in columns:
            r = cells.get((tokens, *column))
            row.append(
                units.DASH if r is None else f"{r['ratio']:.2f} [{r['ratio_low']:.2f}, {r['ratio_high']:.2f}]"
            )
        rows.append(row)
    heads = [
        "T",
        *(f"{_mode({'mode': mode, 'compiled': compiled})}, {peer}" for peer, mode, compiled in columns),
    ]
    title = f"time of the peer / time of {study['subject']}, {TITLES[level]}"
    return Table(
        title=title,
        headers=heads,
        rows=rows,
        note="median [quartiles] of interleaved pairs; above 1 it is faster",
        words=(),
    )


def speeds(study: Study, level: str, mode: str, compiled: bool) -> Table:
    def cell(row: Mapping[str, Any]) -> str:
        if row["status"] != MEASURED:
            return str(row["status"])
        return f"{units.short(row['tokens_per_second'])} ({row['ms']:.3g} ms [{row['ms_low']:.3g}, {row['ms_high']:.3g}])"

    title = f"tokens/s, {UNITS[mode]}{', compiled' if compiled else ''}, {TITLES[level]}"
    what = f"ms of {study['decode_tokens']} tokens" if mode == "decode" else "ms per call"
    return replace(
        _by_arm(study, title, cell, f"in brackets {what}, median [quartiles]", level, mode, compiled),
        drawing="speed",
    )


def memory(study: Study) -> Table:
    note = "most bytes held by the tensors of one call, without weights; a step includes gradients and AdamW's moments"
    shown = [s for s in series_of(study) if s[1] != "decode"]
    shown = [s for s in shown if s[0] == "model"] or shown
    return replace(
        _joined(study, "peak memory", shown, lambda row: units.memory(row["peak_bytes"]), note),
        drawing="memory",
    )


def states(study: Study) -> Table:
    def cell(row: Mapping[str, Any]) -> str:
        return f"{units.memory(row['state_bytes'])} ({units.memory(row['settled_bytes'])})"

    note = "bytes of one sequence after T tokens; in brackets as held here to decode more, with the prompt settled if the mixer can"
    return _by_arm(study, "decoding state", cell, note, "model", "decode", False)


def utilisation(study: Study) -> Table:
    def cell(row: Mapping[str, Any]) -> str:
        return f"{_share(row['mfu'])} / {_share(row['hfu'])}"

    note = "MFU / HFU: rate of canonical FLOPs / of executed FLOPs, as a share of the GEMM rate measured in the same run"
    rates = [row["gemm_rate"] for row in study["rows"]]
    note += f" ({units.short(min(rates), 'FLOP/s')} to {units.short(max(rates), 'FLOP/s')}); {units.DASH}: unknown"
    shown = [s for s in series_of(study) if s[1] != "decode"]
    return _joined(study, "utilisation", [s for s in shown if s[0] == "model"] or shown, cell, note)


def gaps(study: Study) -> Table:
    rows = [
        [r["arm"], f"{r['level']} {_mode(r)}", f"{r['tokens']:,}", r["status"], r["reason"]]
        for r in study["rows"]
        if r["status"] != MEASURED
    ]
    return Table(
        title="what did not run", headers=["arm", "what", "T", "status", "why"], rows=rows, words=(0, 1, 3, 4)
    )


def _by_arm(
    study: Study,
    title: str,
    cell: Callable[[Mapping[str, Any]], str],
    note: str,
    level: str,
    mode: str,
    compiled: bool,
) -> Table:
    names = [arm["name"] for arm in study["arms"]]
    found = {
        (r["tokens"], r["arm"]): r
        for r in study["rows"]
        if (r["level"], r["mode"], r["compiled"]) == (level, mode, compiled)
    }
    lengths = sorted({tokens for tokens, _ in found})
    rows = [[f"{t:,}", *(cell(found[t, name]) for name in names)] for t in lengths]
    return Table(title=title, headers=["T", *names], rows=rows, note=note, words=())


def _joined(
    study: Study,
    title: str,
    series: list[tuple[str, str, bool]],
    cell: Callable[[Mapping[str, Any]], str],
    note: str,
) -> Table:
    parts = [
        (_mode({"mode": m, "compiled": c}), _by_arm(study, title, cell, note, lv, m, c))
        for lv, m, c in series
    ]
    rows = [[name, *row] for name, part in parts for row in part.rows]
    return Table(title=title, headers=["mode", *parts[0][1].headers], rows=rows, note=note)


def _mode(row: Mapping[str, Any]) -> str:
    return f"{row['mode']}{' compiled' if row['compiled'] else ''}"


def _share(value: float | None) -> str:
    return units.DASH if value is None else f"{100 * value:.1f} %"


def markdown(study: Study) -> str:
    """Every table, for a README, under the command that made them."""
    return readme(study, all_tables(study), f"{study['clock']} time")
