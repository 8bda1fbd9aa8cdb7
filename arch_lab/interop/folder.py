"""Our own checkpoint folder: ``arch-lab.json``, ``model.safetensors`` under our names, and the tokenizer's files as they came.

``arch-lab.json``: format (1), architecture, options, shape, vocabulary, max_tokens, and tokens: the ids that begin, end and pad
a text (begin_text, end_text, padding; null where there is none).
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from arch_lab.architecture import (
    BidirectionalStack,
    Decoder,
    Encoder,
    EncoderDecoder,
    EncoderDecoderRecipe,
    EncoderRecipe,
    Shape,
    on_meta,
    recipe,
)
from arch_lab.data import Tokenizer
from arch_lab.data.tokenizer import load_tokenizer, read_tokenizer
from arch_lab.interop.family import Blueprint, InteropError
from arch_lab.interop.tensors import SINGLE, TensorFiles, check_shapes, read_object, write_object

MANIFEST, FORMAT = "arch-lab.json", 1
# copied unchanged in both directions, so that a folder converted back still reads text
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_kind.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
Ids = int | list[int] | None
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``arch-lab.json``. Ids are kept as they were written: one, several or none."""

    blueprint: Blueprint
    begin_text: Ids = None
    end_text: Ids = None
    padding: Ids = None

    @property
    def begin(self) -> tuple[int, ...]:
        return _ids(self.begin_text)

    @property
    def end(self) -> frozenset[int]:
        return frozenset(_ids(self.end_text))

    def to_dict(self) -> dict[str, Any]:
        tokens = {"begin_text": self.begin_text, "end_text": self.end_text, "padding": self.padding}
        return {"format": FORMAT, **asdict(self.blueprint), "tokens": tokens}


def read_manifest(folder: Path) -> Manifest:
    """Raises: InteropError when the file is damaged or of a later format, ConfigError for an architecture that is unknown."""
    path = folder / MANIFEST
    content = read_object(path)
    if content.get("format") != FORMAT:
        raise InteropError(f"{path}: format {content.get('format')!r} is not known, this version reads {FORMAT}")
    try:
        blueprint = Blueprint(
            architecture=content["architecture"],
            options=dict(content["options"]),
            shape=Shape(**content["shape"]),
            vocabulary=int(content["vocabulary"]),
            max_tokens=int(content["max_tokens"]),
        )
        tokens = dict(content["tokens"])
        return Manifest(blueprint=blueprint, **tokens)
    except KeyError as error:
        raise InteropError(f"{path}: {error.args[0]!r} is missing") from None
    except (TypeError, ValueError) as error:
        raise InteropError(f"{path}: {error}") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_object(folder / MANIFEST, manifest.to_dict())


def load_model(folder: Path, manifest: Manifest) -> Decoder:
    """The decoder in evaluation mode, in the dtype of the file.

    Raises: InteropError when tensors do not fit, ConfigError when the folder holds no decoder.
    """
    blueprint = manifest.blueprint
    chosen = recipe(blueprint.architecture, blueprint.options)
    if isinstance(chosen, EncoderDecoderRecipe):
        raise chosen.refuse_decoder(f"{folder}: ")
    with on_meta():  # no memory, and no random draw, for what the file replaces
        model = chosen.model(blueprint.shape, vocabulary=blueprint.vocabulary, max_tokens=blueprint.max_tokens)
    return _filled(model, folder)


def load_encoder(folder: Path) -> Encoder | BidirectionalStack:
    """The encoder of a folder, as ``load_model`` gives a decoder. Raises: InteropError when it holds none, or tensors do not fit."""
    blueprint = read_manifest(folder).blueprint
    chosen = recipe(blueprint.architecture, blueprint.options)
    if not isinstance(chosen, EncoderRecipe):
        raise InteropError(f"{folder} holds {blueprint.architecture!r}, which is no encoder")
    with on_meta():
        model = chosen.encoder_model(blueprint.shape, vocabulary=blueprint.vocabulary, max_tokens=blueprint.max_tokens)
    return _filled(model, folder)


def load_encoder_decoder(folder: Path, manifest: Manifest) -> EncoderDecoder:
    """Both stacks in evaluation mode, in the dtype of the file. Raises: InteropError when the folder holds something else."""
    blueprint = manifest.blueprint
    chosen = recipe(blueprint.architecture, blueprint.options)
    if not isinstance(chosen, EncoderDecoderRecipe):
        raise InteropError(f"{folder}: architecture {blueprint.architecture!r} is no encoder–decoder; load_model reads it")
    with on_meta():
        model = chosen.encoder_decoder_model(blueprint.shape, vocabulary=blueprint.vocabulary, max_tokens=blueprint.max_tokens)
    return _filled(model, folder)


def _filled(model: Model, folder: Path) -> Model:
    """A model of the meta device with the tensors of a folder. Raises: InteropError when they do not fit."""
    tensors = TensorFiles(folder)
    check_shapes(tensors.shapes(), {name: tuple(value.shape) for name, value in model.state_dict().items()}, folder / SINGLE)
    weights: dict[str, Tensor] = {name: tensors.read(name) for name in tensors.where}
    dtypes = {value.dtype for value in weights.values()}
    if len(dtypes) > 1:  # norms kept in float32 beside bfloat16 matrices: one dtype, the widest, computes the same
        widest = torch.float32 if torch.float64 not in dtypes else torch.float64
        weights = {name: value.to(widest) for name, value in weights.items()}
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(True).eval()
    return model


def read_own_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in a converted folder, or None. Raises: DataError when it is damaged."""
    if (folder / "tokenizer_kind.json").is_file():
        return load_tokenizer(folder)
    return read_tokenizer(folder / "tokenizer.json") if (folder / "tokenizer.json").is_file() else None


def copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _ids(value: Ids) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
