"""Training that starts from a checkpoint: what must agree, what is copied."""

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
from arch_lab.stored import Json
from blocks.errors import ConfigError, shown


def initial_settings(
    opened: Checkpoint, settings: Mapping[str, Any], defaults: Mapping[str, Any], option: str
) -> Json:
    """Model settings that the checkpoint determines.

    ``settings``: the user's. ``option``: how the user spells their group, for instance ``--model.``.
    Raises: ConfigError for a setting that differs from the checkpoint's and from its default.
    """
    stored: Json = {
        "architecture": opened.architecture,
        "options": opened.options,
        **asdict(opened.shape),
        "max_tokens": opened.max_tokens,
    }
    for name, stored_value in stored.items():
        setting = settings.get(name)
        if setting not in (None, {}, stored_value, defaults.get(name)):
            raise ConfigError(
                f"{option}{name} {shown(setting)} contradicts the checkpoint {opened.path}, "
                f"which has {shown(stored_value)}; leave it out"
            )
    return stored


def start_from(
    model: nn.Module, path: str | Path, tokenizer: Tokenizer | None, *, fingerprint: str | None = None
) -> None:
    """Give ``model`` the weights at ``path``, in its own dtype.

    ``fingerprint``: the expected one of the checkpoint.
    Raises: UserError, one line: weights that do not fit by name or shape, another fingerprint, another
    tokenizer.
    """
    opened = open_checkpoint(Path(path).expanduser())
    if fingerprint not in (None, opened.fingerprint):
        raise CheckpointError(f"{opened.path} has changed since the study was planned; run the command again")
    check_tokenizer(opened, tokenizer)
    weights = opened.model.state_dict()
    check_tensors(model, weights, str(opened.path))
    model.load_state_dict(weights)


def check_tokenizer(opened: Checkpoint, tokenizer: Tokenizer | None) -> None:
    """Check that an id means the same text in data and checkpoint.

    Raises: CheckpointError.
    """
    if tokenizer is None:
        return
    if opened.tokenizer is None:
        raise CheckpointError(
            f"{opened.path} contains no tokenizer, so its ids may stand for different text; "
            "put its tokenizer.json there"
        )
    if opened.tokenizer.fingerprint != tokenizer.fingerprint or opened.vocabulary != tokenizer.vocabulary:
        raise CheckpointError(
            f"the tokenizer of the data ({_words(tokenizer)}) is not that of the checkpoint {opened.path} "
            f"({_words(opened.tokenizer)}, {opened.vocabulary:,} rows), so ids would mean another text; "
            f"take the checkpoint's: tokenizer kind 'file', path {opened.path.absolute()}"
        )


def _words(tokenizer: Tokenizer) -> str:
    return f"{tokenizer.kind}, {tokenizer.vocabulary:,} entries"
