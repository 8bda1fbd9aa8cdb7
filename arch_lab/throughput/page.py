"""``report.html`` of a throughput study, and its two plots as files: verdict first, then who is faster from where, then the numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arch_lab import files
from arch_lab.report import figures, sections
from arch_lab.report.html import document, replace_page
from arch_lab.report.markup import Raw, figure, items, join, paragraph, section, table, tag
from arch_lab.throughput import charts, tables
from arch_lab.throughput.results import load

CAPTIONS = {
    "speed": "Whole models: tokens per second against sequence length, both axes logarithmic. "
    "A cross at the bottom: not measured; the last table gives the reason.",
    "ratios": "Time of the peer over time of the subject, pair by pair: above the line at 1 the subject is faster. Band: quartiles. "
    "Ring: the crossover. The mixer alone, one layer and the whole model are shown separately, so that the gain of the channel mixer is "
    "not credited to the sequence mixer.",
    "memory": "Whole models: the most bytes held by the tensors of one call, and the decoding state of one sequence.",
}
TERMS = {
    "forward, step": "All logits without gradients; a training step is forward, cross-entropy, backward and AdamW "
    "(of a mixer or a layer: forward and backward).",
    "prefill, decode": "Reading one prompt of T tokens into a decoding state; then generating tokens one by one.",
    "mixer, layer, model": "One sequence mixer at the arm's width; one whole residual layer; the whole model with embedding and logits. "
    "Arms differ in depth, so the ratio of layers is not that of models. If the layers of an arm differ, their mean is used.",
    "interleaved pairs": "All arms are called in turn, for several rounds. Ratios of two arms are taken within each round, so that slow "
    "drift of the machine cancels.",
    "MFU": "Rate of canonical FLOPs (a training step counts three times a forward) as a share of the rate at "
    "which this machine multiplied matrices in the same run.",
    "HFU": "The same with the FLOPs that the algorithms execute, including masked pairs and recomputed scores.",
    "crossover": "The length from which the subject takes less time per token, interpolated between measured lengths on logarithmic axes, "
    "with its spread from the quartiles.",
    "time-out, out of memory": "A measurement that exceeds its time limit or the memory of this machine. It is listed with the reason.",
}


def write(folder: Path) -> Path:
    """Writes report.html, throughput.png and ratios.png. Raises: UserError when study.json or matplotlib is missing."""
    folder = Path(folder)
    study = load(folder)
    with figures.looks():
        drawn = charts.build(study)
        drawings = {name: figures.svg(made, name, CAPTIONS[name]) for name, made in drawn.items()}
        for name, file in (("speed", "throughput.png"), ("ratios", "ratios.png")):
            if name in drawn:
                _save(drawn[name], folder / file)
    return replace_page(folder, document(study["study"], _parts(folder, study, drawings)))


def _save(drawn: Any, path: Path) -> None:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=130, facecolor="white")
    files.write_bytes(path, buffer.getvalue())


def _parts(folder: Path, study: Mapping[str, Any], drawings: Mapping[str, str]) -> list[Raw]:
    yaml = folder / "study.yaml"
    about = [paragraph(study["description"])] if study.get("description") else []
    held = f"{study['tokens_per_step']:,} tokens per call (or one sequence, if it is longer), {study['clock']} time, {study['dtype']}."
    lines = [line for line in study["verdict"]["text"].split(". ") if line]
    verdict = tag(
        "div", *(paragraph(line if line.endswith(".") else f"{line}.") for line in lines), class_="verdict"
    )
    parts = [
        join([tag("h1", f"Study: {study['study']}"), *about, paragraph(held, kind="soft"), verdict]),
        sections.banner(study),
    ]
    shown: set[str] = set()
    for i, found in enumerate(tables.all_tables(study)):
        name = found.drawing if found.drawing not in shown else ""  # above the first table that it draws
        shown.add(name)
        drawing = [figure(drawings[name], CAPTIONS[name])] if name in drawings else []
        body = table(found.headers, found.rows, words=(0, *found.words))
        parts.append(
            section(
                found.heading,
                *drawing,
                body,
                paragraph(found.note, kind="soft") if found.note else "",
                anchor=f"table-{i}",
            )
        )
    said = study.get("warnings") or []
    parts += [
        section("Warnings", items(said) if said else paragraph("No warnings."), anchor="warnings"),
        sections.reproduce(
            study,
            f"runs/{folder.resolve().name}",
            yaml.read_text(encoding="utf-8") if yaml.is_file() else None,
        ),
        section(
            "Words",
            tag("dl", *(Raw(tag("dt", term) + tag("dd", meaning)) for term, meaning in TERMS.items())),
            anchor="words",
        ),
    ]
    return parts
