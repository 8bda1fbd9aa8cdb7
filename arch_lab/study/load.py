"""A finished run, back in memory: model, tokenizer data, configuration and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arch_lab.checkpoints import Checkpoint, open_checkpoint
from arch_lab.data import Tokenizer
from arch_lab.judge.records import Record
from arch_lab.models import Model
from arch_lab.stored import Json
from arch_lab.study import storage


@dataclass(frozen=True)
class LoadedRun:
    """``model`` in evaluation mode on the CPU; ``config``: the identity of its run; ``result``: its scores.

    ``tokenizer``: the one that its ids belong to; None for an experiment without text.
    """

    model: Model
    config: Json
    result: Record
    tokenizer: Tokenizer | None = None


def load_run(run: str | Path, trust: Sequence[str] = ()) -> LoadedRun:
    """Load ``runs/<study>/runs/<arm>/lr-…_seed-…``. ``trust``: modules of your own that its blocks come from.

    Raises: CheckpointError or DamagedError naming what is missing or damaged; TrustError for a module that is
    not named.
    """
    folder = Path(run)
    config, result = storage.stored_run(folder)
    record = storage.records_of(result)[0]
    opened: Checkpoint = open_checkpoint(folder, trust)
    return LoadedRun(model=opened.model, config=config, result=record, tokenizer=opened.tokenizer)
