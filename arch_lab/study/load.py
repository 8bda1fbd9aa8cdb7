"""A finished run, back in memory: model, tokenizer data, configuration and scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from arch_lab import files
from arch_lab.architecture import Decoder, Encoder, EncoderDecoder, ImageClassifier, Shape, recipe
from arch_lab.data import Tokenizer, tokenizer_from
from arch_lab.study.run import MODEL
from arch_lab.training.callbacks import intact
from blocks.errors import UserError


class CheckpointError(UserError):
    """A run folder without a whole, undamaged model."""


@dataclass(frozen=True)
class LoadedRun:
    """``model`` in evaluation mode on the CPU; ``config`` and ``result`` as stored; the tokenizer its ids belong to."""

    model: Decoder | Encoder | EncoderDecoder | ImageClassifier
    config: dict[str, Any]
    result: dict[str, Any]
    tokenizer: Tokenizer | None = None  # None: an experiment without text


def load_run(run: str | Path) -> LoadedRun:
    """Load ``runs/<study>/runs/<arm>/lr-…_seed-…``. Raises: CheckpointError naming what is missing or damaged."""
    folder = Path(run)
    config, result = files.read_json(folder / "config.json"), files.read_json(folder / "result.json")
    if config is None or result is None:
        raise CheckpointError(
            f"{folder}: not a finished run (config.json or result.json is missing or damaged); run arch-lab compare again"
        )
    path = folder / MODEL
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {MODEL}; the run's status is {result.get('status')!r}")
    if not intact(path):
        raise CheckpointError(f"{path}: does not match its checksum, so it is not used; delete {folder} and run arch-lab compare again")
    shape = Shape(width=config["width"], depth=config["depth"], ffn_width=config["ffn_width"])
    model = recipe(config["architecture"], config["options"]).network(
        shape, vocabulary=config["vocabulary"], max_tokens=config["training"]["sequence_length"]
    )
    kept = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict({k.removeprefix("model."): v for k, v in kept["state_dict"].items() if k.startswith("model.")})
    tokenizer = tokenizer_from(kept["tokenizer"]) if "tokenizer" in kept else None
    return LoadedRun(model=model.eval(), config=config, result=result, tokenizer=tokenizer)
