"""What an open checkpoint is, whichever kind of file it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from arch_lab.data import Tokenizer
from arch_lab.models import Shape
from arch_lab.stored import Json
from blocks.errors import UserError

Kind = Literal["run", "fit", "converted", "huggingface"]


class CheckpointError(UserError):
    """No checkpoint, a damaged one, or one that cannot be translated."""


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """Everything a model is built from; what ``arch-lab.json`` holds."""

    architecture: str
    options: Json
    shape: Shape
    vocabulary: int
    max_tokens: int


@dataclass(frozen=True)
class Reading:
    """How the training text was split into documents and counted.

    The keys are those of ``data:`` in a study.
    """

    document_start: str | None = None
    text_column: str = "text"
    count_line_ends: bool = False


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model in evaluation mode on the CPU, with its tokenizer.

    ``begin``: ids before every document and prompt. ``end``: ids that end a text. ``context``: tokens of a
    training sequence, None where the checkpoint does not say.
    """

    path: Path
    model: Any  # arch_lab.models.Model of any kind
    blueprint: Blueprint
    tokenizer: Tokenizer | None
    begin: tuple[int, ...]
    end: frozenset[int]
    kind: Kind = "fit"
    context: int | None = None
    reading: Reading = field(default_factory=Reading)

    @property
    def architecture(self) -> str:
        return self.blueprint.architecture

    @property
    def options(self) -> Json:
        return self.blueprint.options

    @property
    def shape(self) -> Shape:
        return self.blueprint.shape

    @property
    def vocabulary(self) -> int:
        return self.blueprint.vocabulary

    @property
    def max_tokens(self) -> int:
        return self.blueprint.max_tokens

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of settings and weights.

        Equal for a run, its converted folder and any copy of either.
        """
        settings = [
            self.architecture,
            sorted(self.options.items(), key=str),
            vars(self.shape),
            self.vocabulary,
            self.max_tokens,
        ]
        return weights_hash(self.model.state_dict(), salt=repr(settings))


def weights_hash(weights: Mapping[str, Tensor], *, salt: str = "") -> str:
    """SHA-256 of names, types, shapes and values, independent of their order."""
    digest = hashlib.sha256(salt.encode())
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
