"""The tables of a throughput study: rows run over sequence lengths, columns over arms.

A cell that could not be measured says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from arch_lab import units
from arch_lab.judge.crossover import Ratio, Series
from arch_lab.report.section import Table
from arch_lab.study.plan import Plan, PlannedArm
from experiments.throughput.config import LEVELS, MODES, PlannedGroup, PlanSettings
from experiments.throughput.results import Results, parameters_at
from experiments.throughput.timing import Timing

LEVEL_NAMES = {
    "mixer": "sequence mixer alone (mean layer)",
    "layer": "one layer (mean layer)",
    "model": "whole model",
}
MODE_NAMES = {
    "forward": "forward",
    "step": "training step",
    "prefill": "prefill of one prompt",
    "decode": "decoding after T tokens",
}
PEAK_NOTE = (
    "most bytes held by the tensors of one call, without weights; "
    "a step includes gradients and AdamW's moments"
)
STATE_NOTE = (
    "bytes of one sequence after T tokens; in brackets as held here to decode more, "
    "with the prompt settled if the mixer can"
)
CROSSOVER_NOTE = (
    "the length from which it takes less time per token, "
    "by the medians [by the upper quartiles, by the lower]"
)
UTILISATION_NOTE = (
    "MFU / HFU: rate of canonical FLOPs / of executed FLOPs, "
    "as a share of the GEMM rate measured in the same run"
)


# --- plan -------------------------------------------------------------------------------------------------


def arms_table(plan: Plan, settings: PlanSettings) -> Table:
    """What is compared: shapes and parameters."""
    axis, longest = plan.budget["match_on"], max(parameters_at(plan.arms[0]))
    headers = [
        "arm",
        "architecture",
        "width × depth, ffn",
        f"parameters ({axis})",
        "off budget",
        "with the embedding",
        f"at T = {longest:,}",
    ]
    return Table(
        title="what was compared",
        headers=headers,
        rows=[_arm_row(arm, axis, longest) for arm in plan.arms],
        note=f"matched at {settings.match_length:,} tokens; parameters per position grow with T",
        text_columns=(0, 1, 2),
    )


def _arm_row(arm: PlannedArm, axis: str, longest: int) -> list[str]:
    options = ", ".join(f"{key} {value}" for key, value in arm.options.items())
    counts = arm.parameters
    matched = counts["body"] + counts["head"] if axis == "body+head" else counts[axis]
    return [
        arm.name,
        arm.architecture + (f" ({options})" if options else ""),
        f"{arm.width} × {arm.depth}, {arm.ffn_width}",
        f"{matched:,}",
        units.percent(arm.deviation.get("params")),
        f"{counts['total']:,}",
        f"{parameters_at(arm)[longest]:,}",
    ]


def groups_table(settings: PlanSettings) -> Table:
    """What will be timed, with an estimate."""
    lines: dict[Series, list[PlannedGroup]] = {}
    for group in settings.groups:
        lines.setdefault(group.series, []).append(group)
    rows = [
        [
            f"{series.level} {series.mode_label}",
            ", ".join(f"{group.tokens:,}" for group in groups),
            units.duration(sum(group.estimate_seconds for group in groups)),
        ]
        for series, groups in lines.items()
    ]
    return Table(headers=["timed", "sequence lengths", "about"], rows=rows, text_columns=(0, 1))


# --- results ----------------------------------------------------------------------------------------------


def crossovers_table(results: Results) -> Table:
    """From which length on the subject is faster, whole models first."""
    order = {level: i for i, level in enumerate(reversed(LEVELS))}
    crossovers = sorted(results.details.crossovers, key=lambda crossover: order[crossover.level])
    return Table(
        title=f"crossover, the length from which {results.settings.subject} is faster",
        headers=["level", "mode", "than", "from"],
        rows=[[c.level, c.mode_label, c.peer, str(c)] for c in crossovers],
        note=CROSSOVER_NOTE,
        text_columns=(0, 1, 2, 3),
    )


def ratio_tables(results: Results) -> list[Table]:
    """Time ratios, a table per level."""
    tables = []
    for level in LEVELS:
        pairs = [pair for pair in results.details.ratios if pair.level == level]
        if pairs:
            title = f"time of the peer / time of {results.settings.subject}, {LEVEL_NAMES[level]}"
            tables.append(_ratio_table(pairs, title))
    return tables


def _ratio_table(pairs: Sequence[Ratio], title: str) -> Table:
    by_mode = sorted(pairs, key=lambda pair: MODES.index(pair.mode))
    columns = list(dict.fromkeys((pair.series, pair.peer) for pair in by_mode))
    cells = {(pair.tokens, pair.series, pair.peer): pair for pair in pairs}
    return Table(
        title=title,
        headers=["T", *(f"{series.mode_label}, {peer}" for series, peer in columns)],
        rows=[
            [f"{tokens:,}", *(_ratio_cell(cells.get((tokens, *column))) for column in columns)]
            for tokens in sorted({pair.tokens for pair in pairs})
        ],
        note="median [quartiles] of interleaved pairs; above 1 it is faster",
        text_columns=(),
    )


def _ratio_cell(pair: Ratio | None) -> str:
    return units.DASH if pair is None else f"{pair.ratio:.2f} [{pair.ratio_low:.2f}, {pair.ratio_high:.2f}]"


def speed_tables(results: Results) -> list[Table]:
    """Tokens per second and time of a call, a table per series."""
    return [_speed_table(results, series) for series in results.series]


def _speed_table(results: Results, series: Series) -> Table:
    kind = f"{MODE_NAMES[series.mode]}{', compiled' if series.compiled else ''}"
    call = f"ms of {results.settings.decode_tokens} tokens" if series.mode == "decode" else "ms per call"
    return _table_by_arm(
        results,
        series,
        title=f"tokens/s, {kind}, {LEVEL_NAMES[series.level]}",
        note=f"in brackets {call}, median [quartiles]",
        cell=_speed_cell,
    )


def _speed_cell(timing: Timing) -> str:
    if not timing.is_measured:
        return timing.status
    spread = f"[{timing.ms_low:.3g}, {timing.ms_high:.3g}]"
    return f"{units.short(timing.tokens_per_second)} ({timing.ms:.3g} ms {spread})"


def memory_table(results: Results) -> Table:
    """Peak memory of calls that do not decode."""
    return _joined_table(results, "peak memory", PEAK_NOTE, lambda timing: units.memory(timing.peak_bytes))


def states_table(results: Results) -> Table:
    """Bytes of a decoding state."""
    return _table_by_arm(
        results,
        Series(level="model", mode="decode", compiled=False),
        title="decoding state",
        note=STATE_NOTE,
        cell=lambda timing: f"{units.memory(timing.state_bytes)} ({units.memory(timing.settled_bytes)})",
    )


def utilisation_table(results: Results) -> Table:
    """MFU and HFU of calls that do not decode."""
    rates = [timing.gemm_rate for timing in results.timings]
    span = f"{units.short(min(rates), 'FLOP/s')} to {units.short(max(rates), 'FLOP/s')}"
    note = f"{UTILISATION_NOTE} ({span}); {units.DASH}: unknown"
    return _joined_table(
        results, "utilisation", note, lambda timing: f"{_share(timing.mfu)} / {_share(timing.hfu)}"
    )


def _share(value: float | None) -> str:
    return units.DASH if value is None else f"{100 * value:.1f} %"


def gaps_table(results: Results) -> Table:
    """Cells without a time, and why."""
    rows = [
        [
            timing.arm,
            f"{timing.level} {timing.mode_label}",
            f"{timing.tokens:,}",
            timing.status,
            timing.reason,
        ]
        for timing in results.timings
        if not timing.is_measured
    ]
    return Table(
        title="what did not run",
        headers=["arm", "what", "T", "status", "why"],
        rows=rows,
        text_columns=(0, 1, 3, 4),
    )


def _table_by_arm(
    results: Results, series: Series, *, title: str, note: str, cell: Callable[[Timing], str]
) -> Table:
    """A row per length, a column per arm."""
    cells = {(timing.tokens, timing.arm): cell(timing) for timing in results.timings_of(series)}
    lengths = sorted({tokens for tokens, _ in cells})
    rows = [[f"{tokens:,}", *(cells[tokens, name] for name in results.names)] for tokens in lengths]
    return Table(title=title, headers=["T", *results.names], rows=rows, note=note, text_columns=())


def _joined_table(results: Results, title: str, note: str, cell: Callable[[Timing], str]) -> Table:
    """The tables of whole models below each other, the mode in front."""
    rows: list[list[str]] = []
    headers: Sequence[str] = ()
    for series in results.series_of_models:
        table = _table_by_arm(results, series, title=title, note=note, cell=cell)
        headers = ["mode", *table.headers]
        rows += [[series.mode_label, *map(str, row)] for row in table.rows]
    return Table(title=title, headers=headers, rows=rows, note=note)
