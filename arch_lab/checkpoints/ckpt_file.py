"""Content of a ``.ckpt`` file: settings, weights, tokenizer, reading of text.

Nothing in it is executed: the file is read without pickled code.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arch_lab.checkpoints.blueprint import read_blueprint
from arch_lab.checkpoints.checkpoint import Blueprint, CheckpointError, Reading
from arch_lab.data import Tokenizer, tokenizer_from
from arch_lab.data.archives import check_stored
from arch_lab.stored import Json
from blocks.errors import UserError

PREFIX = "model."  # of the network's parameters


def read_file(path: Path) -> Json:
    """The content of a ``.ckpt`` file.

    ``hyper_parameters`` is a plain mapping, ``state_dict`` a table of tensors.
    Raises: CheckpointError when the file is no checkpoint, is cut short, or holds anything but plain values
    and tensors.
    """
    try:
        if not zipfile.is_zipfile(path):  # torch would take anything else for its old format
            raise CheckpointError(
                f"{path}: not a readable checkpoint of arch-lab (not a zip archive); it may be cut short"
            )
        check_stored(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        settings, weights = content["hyper_parameters"], content["state_dict"]
    except UserError:
        raise
    except Exception as error:  # torch raises half a dozen types for what is not, or no longer, a checkpoint
        raise CheckpointError(
            f"{path}: not a readable checkpoint of arch-lab ({type(error).__name__}); it may be cut short"
        ) from None
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"{path}: hyper_parameters is a {type(settings).__name__}, expected the settings of a model"
        )
    if not isinstance(weights, dict) or not all(
        isinstance(k, str) and _is_dense(v) for k, v in weights.items()
    ):
        raise CheckpointError(f"{path}: state_dict is not a table of plain tensors")
    return dict(content)


def blueprint_of(content: Mapping[str, Any], origin: str) -> Blueprint:
    """Settings of the model in a ``.ckpt`` file.

    Raises: UserError.
    """
    return read_blueprint(content["hyper_parameters"], origin)


def weights_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters of the network under its own names."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in content["state_dict"].items()
        if name.startswith(PREFIX)
    }


def tokenizer_of(content: Mapping[str, Any], origin: str) -> Tokenizer | None:
    """The tokenizer in a ``.ckpt`` file, or None.

    Raises: UserError.
    """
    if content.get("tokenizer") is None:
        return None
    try:
        return tokenizer_from(content["tokenizer"])
    except UserError as error:
        raise CheckpointError(f"{origin}: {error}") from None
    except Exception as error:
        raise CheckpointError(f"{origin}: its tokenizer is unreadable ({type(error).__name__})") from None


def reading_of(content: Mapping[str, Any], origin: str) -> tuple[Reading, int | None]:
    """How the training text was read, and the tokens per sequence.

    None for the second in files that do not say. Raises: CheckpointError.
    """
    stored = content.get("reading")
    if stored is None:
        return Reading(), None
    types = {
        "document_start": (str, type(None)),
        "text_column": (str,),
        "count_line_ends": (bool,),
        "sequence_length": (int,),
    }
    if (
        not isinstance(stored, dict)
        or set(stored) != set(types)
        or not all(isinstance(stored[k], t) for k, t in types.items())
    ):
        raise CheckpointError(f"{origin}: its settings for reading text are damaged")
    values = dict(stored)
    length = values.pop("sequence_length")
    if length < 1:
        raise CheckpointError(f"{origin}: sequence_length {length} is not a whole number of at least 1")
    return Reading(**values), length


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
