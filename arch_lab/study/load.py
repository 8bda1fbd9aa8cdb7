"""A finished run, back in memory: model, tokenizer data, configuration and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch_lab.checkpoints import Checkpoint, open_checkpoint
from arch_lab.data import Tokenizer
from arch_lab.models import Model
from arch_lab.study import storage


@dataclass(frozen=True)
class LoadedRun:
    """``model`` in evaluation mode on the CPU; ``config`` and ``result`` as stored; the tokenizer its ids belong to."""

    model: Model
    config: dict[str, Any]
    result: dict[str, Any]
    tokenizer: Tokenizer | None = None  # None: an experiment without text


def load_run(run: str | Path, trust: Sequence[str] = ()) -> LoadedRun:
    """Load ``runs/<study>/runs/<arm>/lr-…_seed-…``. ``trust``: modules of your own that its blocks come from.

    Raises: CheckpointError or DamagedError naming what is missing or damaged; TrustError for a module that is not named.
    """
    folder = Path(run)
    config, result = storage.stored_run(folder)
    opened: Checkpoint = open_checkpoint(folder, trust)
    return LoadedRun(
        model=opened.model, config=config, result=storage.public(result), tokenizer=opened.tokenizer
    )
