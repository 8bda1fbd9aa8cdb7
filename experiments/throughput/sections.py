"""The sections of a throughput report: who is faster from which length, then the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arch_lab import units
from arch_lab.report.section import Drawing, Section, Table
from arch_lab.study.plan import Plan
from arch_lab.study.study import Study
from experiments.throughput import charts, tables
from experiments.throughput.config import PlanSettings
from experiments.throughput.results import Results

SPEED_CAPTION = (
    "Whole models: tokens per second against sequence length, both axes logarithmic. "
    "A cross at the bottom: not measured; the last table gives the reason."
)
RATIO_CAPTION = (
    "Time of the peer over time of the subject, pair by pair: above the line at 1 the subject is faster. "
    "Band: quartiles. Ring: the crossover. The mixer alone, one layer and the whole model are shown "
    "separately, so that the gain of the channel mixer is not credited to the sequence mixer."
)
MEMORY_CAPTION = (
    "Whole models: the most bytes held by the tensors of one call, and the decoding state of one sequence."
)
TERMS = {
    "forward, step": (
        "All logits without gradients; a training step is forward, cross-entropy, backward and AdamW "
        "(of a mixer or a layer: forward and backward)."
    ),
    "prefill, decode": (
        "Reading one prompt of T tokens into a decoding state; then generating tokens one by one."
    ),
    "mixer, layer, model": (
        "One sequence mixer at the arm's width; one whole residual layer; the whole model with embedding and "
        "logits. Arms differ in depth, so the ratio of layers is not that of models. If the layers of an arm "
        "differ, their mean is used."
    ),
    "interleaved pairs": (
        "All arms are called in turn, for several rounds. Ratios of two arms are taken within each round, so "
        "that slow drift of the machine cancels."
    ),
    "MFU": (
        "Rate of canonical FLOPs (a training step counts three times a forward) as a share of the rate at "
        "which this machine multiplied matrices in the same run."
    ),
    "HFU": (
        "The same with the FLOPs that the algorithms execute, including masked pairs and recomputed scores."
    ),
    "crossover": (
        "The length from which the subject takes less time per token, interpolated between measured lengths "
        "on logarithmic axes, with its spread from the quartiles."
    ),
    "time-out, out of memory": (
        "A measurement that exceeds its time limit or the memory of this machine. "
        "It is listed with the reason."
    ),
}


def sections_of(plan: Plan) -> list[Section]:
    """What a plan or a finished study shows beside the sections of every report."""
    if isinstance(plan, Study):
        return list(_study_sections(Results.of(plan)))
    return list(_plan_sections(plan))


def _of_table(table: Table, anchor: str, **more: Any) -> Section:
    """A section under the title of its one table."""
    return Section(title=table.heading, anchor=anchor, tables=[table], **more)


def _plan_sections(plan: Plan) -> Iterator[Section]:
    settings = PlanSettings.from_json(plan.settings)
    yield _of_table(tables.arms_table(plan, settings), "arms")
    seconds = sum(group.estimate_seconds for group in settings.groups)
    total = (
        f"{len(settings.groups) * len(plan.arms)} cells; about {units.duration(seconds)} in all, "
        f"a rough estimate; no cell takes much more than {settings.cell_seconds:g} s for its arm"
    )
    groups = tables.groups_table(settings)
    yield Section(title="Measurements", anchor="measurements", tables=[groups], text=[total])


def _study_sections(results: Results) -> Iterator[Section]:
    settings, details = results.settings, results.details
    sizes = (
        f"{settings.tokens_per_step:,} tokens per call (or one sequence, if it is longer), "
        f"{details.clock} time, {settings.dtype}."
    )
    yield _of_table(tables.crossovers_table(results), "crossovers", drawings=_ratio_drawing(results))
    yield _of_table(tables.arms_table(results.plan, settings), "arms", text=[sizes], terms=TERMS)
    if details.ratios:
        yield Section(title="Time ratios", anchor="ratios", tables=tables.ratio_tables(results))
    speeds = tables.speed_tables(results)
    yield Section(title="Speed", anchor="speed", drawings=_speed_drawing(results), tables=speeds)
    yield from _memory_sections(results)
    if any(not timing.is_measured for timing in results.timings):
        yield _of_table(tables.gaps_table(results), "gaps")


def _memory_sections(results: Results) -> Iterator[Section]:
    modes = {timing.mode for timing in results.timings}
    if modes - {"decode"}:
        yield _of_table(tables.memory_table(results), "memory", drawings=_memory_drawing(results))
        yield _of_table(tables.utilisation_table(results), "utilisation")
    if "decode" in modes:
        yield _of_table(tables.states_table(results), "states")


# --- figures ----------------------------------------------------------------------------------------------


def _ratio_drawing(results: Results) -> list[Drawing]:
    drawing = Drawing(
        name="ratios",
        caption=RATIO_CAPTION,
        draw=lambda: charts.ratio_figure(results),
        file="ratios.png",
    )
    return [drawing] if results.details.ratios else []


def _speed_drawing(results: Results) -> list[Drawing]:
    drawing = Drawing(
        name="speed",
        caption=SPEED_CAPTION,
        draw=lambda: charts.speed_figure(results),
        file="throughput.png",
    )
    return [drawing] if charts.modes_of_models(results) else []


def _memory_drawing(results: Results) -> list[Drawing]:
    drawing = Drawing(name="memory", caption=MEMORY_CAPTION, draw=lambda: charts.memory_figure(results))
    return [drawing] if charts.modes_with_memory(results) else []
