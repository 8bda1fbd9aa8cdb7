"""GLUE from the Hugging Face hub, or from a local copy of its dataset: the same typed rows as ``read_glue``.

Source: the dataset ``nyu-mll/glue``, one configuration a task; its splits say ``validation`` where the
benchmark's files say ``dev``. Out of reach is said at once (arch_lab.data.hub). The hub has no
``mnli_subset``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from arch_lab.data import DataError
from arch_lab.data.config import DataConfig, HubConfig
from arch_lab.data.hub import load_rows
from arch_lab.data.paths import expand_home
from blocks.errors import did_you_mean
from experiments.glue.reader import GLUE_TASKS, GlueRow, glue_task, typed_rows

HUB_NAME = "nyu-mll/glue"


def read_glue_hub(
    name: str,
    split: str,
    *,
    dataset: str = HUB_NAME,
    root: str | Path = ".",
    revision: str | None = None,
    rows: int | None = None,
) -> list[GlueRow]:
    """The rows of one split (``dev`` as in ``read_glue``) of one task.

    ``dataset``: its name on the hub, or a folder under ``root``: a copy of the hub's repository, or one
    folder per task as ``save_to_disk`` writes it. Raises: DataError, one line; at once when the hub is out of
    reach.
    """
    task = glue_task(name)
    if split not in task.rows:
        raise DataError(f"GLUE task {name!r} has no split {split!r}{did_you_mean(split, task.rows)}")
    if name not in HUB_TASKS:
        raise DataError(f"GLUE task {name!r} is not on the hub; read it from files")
    saved = Path(root) / expand_home(dataset, "data.hub.name") / name
    has_all_splits = (saved / "dataset_dict.json").exists()
    hub = HubConfig(
        name=str(Path(dataset) / name) if has_all_splits else dataset,
        subset=None if has_all_splits else name,
        revision=revision,
    )
    config = DataConfig(source="hub", root=str(root), hub=hub)
    loaded = load_rows(
        config,
        split.replace("dev", "validation"),
        alternative="use source 'files' with a copy of GLUE on disk",
    )
    location = f"hub dataset {dataset!r}, {name}, {split}"
    return typed_rows(name, split, _columns(loaded, location), location, rows=rows)


HUB_TASKS = tuple(name for name in GLUE_TASKS if name != "mnli_subset")


def _columns(loaded: Any, location: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, row in enumerate(loaded):
        yield f"{location} row {number}", dict(row)
