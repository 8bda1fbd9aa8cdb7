"""TensorBoard of a study over tasks: a folder a cell, so that methods overlay and the HParams table filters by task.

Columns: task, method, learning rate, seed; every measure of any task as ``final/<key>``. Curves carry the experiment's own tags.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from arch_lab.report.tensorboard import open_events, write_summary
from arch_lab.report.tensorboard import write_columns as _columns
from arch_lab.tasks.contract import Cell

HPARAMS = {
    "task": (True, "task"),
    "method": (True, "method"),
    "learning_rate": (False, "learning rate"),
    "seed": (False, "seed"),
}


def write_columns(folder: Path, planned: Mapping[str, Any]) -> None:
    """The study's one record of what its table holds."""
    metrics = {f"final/{m['key']}": m["name"] for task in planned["tasks"] for m in task["measures"]}
    held = {
        "tasks": [t["name"] for t in planned["tasks"]],
        "methods": [m["name"] for m in planned["methods"]],
        "learning rates": [f"{rate:g}" for rate in planned["learning_rates"]],
        "seeds": planned["seeds"],
    }
    _columns(folder, HPARAMS, metrics, held)


def hyperparameters(cell: Cell) -> dict[str, Any]:
    """What a cell has in the table of hyperparameters."""
    rate = {} if cell.learning_rate is None else {"learning_rate": cell.learning_rate}
    return {"task": cell.task, "method": cell.method, "seed": cell.seed, **rate}


def scalars(
    row: Mapping[str, Any], curve: Sequence[tuple[int, str, float]]
) -> Iterator[tuple[int, dict[str, float]]]:
    """The curve of a cell step by step, tag -> value, then its final scores. Values that are not finite are left out."""
    for step, points in groupby(curve, key=lambda point: point[0]):
        finite = {tag: value for _, tag, value in points if math.isfinite(value)}
        if finite:
            yield step, finite
    if row["scores"]:
        yield (
            max((step for step, _, _ in curve), default=0),
            {f"final/{key}": value for key, value in row["scores"].items()},
        )


def write_events(
    folder: Path, cell: Cell, row: Mapping[str, Any], curve: Sequence[tuple[int, str, float]]
) -> None:
    """Events of one cell; those of an earlier attempt are dropped. A fit that diverged has curves and no final score."""
    from tensorboard.plugins.hparams import summary_v2 as hp

    writer = open_events(folder, "run")
    write_summary(
        writer, hp.hparams_pb(hyperparameters(cell), trial_id="/".join(folder.resolve().parts[-5:]))
    )
    for step, values in scalars(row, curve):
        for tag, value in values.items():
            writer.add_scalar(tag, value, step)
    writer.close()
