"""A training that starts from the weights of a checkpoint: what must agree, and what is taken over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from arch_lab.checkpoints.blueprint import check_tensors
from arch_lab.checkpoints.checkpoint import Checkpoint, CheckpointError
from arch_lab.checkpoints.opening import open_checkpoint
from arch_lab.data import Tokenizer
from blocks.errors import ConfigError, shown


def initial_settings(opened: Checkpoint, given: Mapping[str, Any], defaults: Mapping[str, Any], option: str) -> dict[str, Any]:
    """Architecture, options, shape and length of the checkpoint, as settings of a model.

    ``given``: what the user's settings hold; one that differs from the checkpoint's and from its default is a contradiction.
    Raises: ConfigError naming it. ``option``: how the user spells the group, for instance ``--model.``.
    """
    stored: dict[str, Any] = {
        "architecture": opened.architecture,
        "options": opened.options,
        **asdict(opened.shape),
        "max_tokens": opened.max_tokens,
    }
    for name, value in stored.items():
        wanted = given.get(name)
        if wanted not in (None, {}, value, defaults.get(name)):
            raise ConfigError(
                f"{option}{name} {shown(wanted)} contradicts the checkpoint {opened.path}, which has {shown(value)}; leave it out"
            )
    return stored


def start_from(model: nn.Module, path: str | Path, tokenizer: Tokenizer | None, *, fingerprint: str | None = None) -> None:
    """Give ``model`` the weights at ``path``, in its own dtype; ``fingerprint``: of those that are expected there.

    Raises: UserError, one line: weights that do not fit by name or shape, other ones, ids that mean another text.
    """
    opened = open_checkpoint(Path(path).expanduser())
    if fingerprint not in (None, opened.fingerprint):
        raise CheckpointError(f"{opened.path} has changed since the study was planned; run the command again")
    check_tokenizer(opened, tokenizer)
    weights = opened.model.state_dict()
    check_tensors(model, weights, str(opened.path))
    model.load_state_dict(weights)


def check_tokenizer(opened: Checkpoint, tokenizer: Tokenizer | None) -> None:
    """Raises: CheckpointError unless the ids of the data mean in the checkpoint what they mean in the data."""
    if tokenizer is None:
        return
    if opened.tokenizer is None:
        raise CheckpointError(f"{opened.path} contains no tokenizer, so its ids may stand for different text; put its tokenizer.json there")
    if opened.tokenizer.fingerprint != tokenizer.fingerprint or opened.vocabulary != tokenizer.vocabulary:
        raise CheckpointError(
            f"the tokenizer of the data ({_words(tokenizer)}) is not that of the checkpoint {opened.path} ({_words(opened.tokenizer)}, "
            f"{opened.vocabulary:,} rows), so ids would mean another text; take the checkpoint's: tokenizer kind 'file', "
            f"path {opened.path.absolute()}"
        )


def _words(tokenizer: Tokenizer) -> str:
    return f"{tokenizer.kind}, {tokenizer.vocabulary:,} entries"
