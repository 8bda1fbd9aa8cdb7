"""A converted checkpoint folder: manifest, tensors and tokenizer.

``arch-lab.json``: format (1), architecture, options, shape, vocabulary, max_tokens, and tokens: the ids that
begin, end and pad a text (begin_text, end_text, padding; null where there is none). ``model.safetensors``
holds our parameter names. Tokenizer files are copied unchanged.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from arch_lab.checkpoints.blueprint import (
    LARGEST,
    lay_out,
    read_blueprint,
    recipe_of,
    refuse_non_decoder,
    require_decoder,
)
from arch_lab.checkpoints.checkpoint import Blueprint, CheckpointError
from arch_lab.checkpoints.storage import read_object, write_object
from arch_lab.checkpoints.tensors import SINGLE, TensorFiles, check_shapes
from arch_lab.data import Tokenizer
from arch_lab.data.tokenizer import load_tokenizer, read_tokenizer
from arch_lab.models import BidirectionalStack, Decoder, Encoder, EncoderDecoder, Model
from arch_lab.stored import Json
from arch_lab.yaml_files import load_json

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
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``arch-lab.json``.

    Ids are stored as written: one, several or none.
    """

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

    def to_dict(self) -> Json:
        tokens = {"begin_text": self.begin_text, "end_text": self.end_text, "padding": self.padding}
        return {"format": FORMAT, **asdict(self.blueprint), "tokens": tokens}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises: CheckpointError for a damaged file or a later format, ConfigError for an unknown architecture.
    """
    path = folder / MANIFEST
    content = read_object(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {content.get('format')!r} is not known, this version reads {FORMAT}"
        )
    shape, tokens = content.get("shape"), content.get("tokens")
    for name, value in (("shape", shape), ("tokens", tokens)):
        if not isinstance(value, dict):
            raise CheckpointError(f"{path}: {name!r} is missing or not an object")
    blueprint = read_blueprint({**content, **dict(shape or {})}, str(path))
    ids = {name: _checked_ids(name, value, path) for name, value in dict(tokens or {}).items()}
    return Manifest(blueprint=blueprint, **ids)


def _checked_ids(name: str, value: Any, path: Path) -> Ids:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if name not in ("begin_text", "end_text", "padding") or not all(
        type(i) is int and 0 <= i <= LARGEST for i in ids
    ):
        raise CheckpointError(
            f"{path}: tokens.{name} is not an id, list of ids or null of begin_text, end_text and padding"
        )
    return value  # type: ignore[no-any-return]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_object(folder / MANIFEST, manifest.to_dict())


def load_model(folder: Path, manifest: Manifest) -> Decoder:
    """The decoder in evaluation mode, in the dtype of the file.

    Raises: CheckpointError when tensors do not fit, ConfigError when the folder holds no decoder.
    """
    origin = str(folder / MANIFEST)
    refuse_non_decoder(recipe_of(manifest.blueprint, origin), origin)
    return require_decoder(load_network(folder, manifest), origin)


def load_encoder(folder: Path) -> Encoder | BidirectionalStack:
    """The encoder of a folder, as ``load_model`` gives a decoder.

    Raises: CheckpointError when it holds none, or tensors do not fit.
    """
    manifest = read_manifest(folder)
    if recipe_of(manifest.blueprint, str(folder / MANIFEST)).kind != "encoder":
        raise CheckpointError(f"{folder} holds {manifest.blueprint.architecture!r}, which is not an encoder")
    return load_network(folder, manifest)  # type: ignore[return-value]


def load_encoder_decoder(folder: Path, manifest: Manifest) -> EncoderDecoder:
    """Both stacks in evaluation mode, in the dtype of the file.

    Raises: CheckpointError when the folder holds something else.
    """
    if recipe_of(manifest.blueprint, str(folder / MANIFEST)).kind != "encoder_decoder":
        raise CheckpointError(
            f"{folder}: architecture {manifest.blueprint.architecture!r} is not an encoder–decoder; "
            "load_model reads it"
        )
    return load_network(folder, manifest)  # type: ignore[return-value]


def load_network(folder: Path, manifest: Manifest) -> Model:
    """The model of a folder, of any kind, in evaluation mode.

    Raises: UserError when settings and tensors do not fit.
    """
    layout, weights = read_weights(folder, manifest)
    return fill(layout, weights)


def read_weights(folder: Path, manifest: Manifest) -> tuple[Model, dict[str, Tensor]]:
    """The model on the meta device and its tensors by name.

    Raises: UserError when settings and tensors do not fit.
    """
    files = TensorFiles(folder)
    layout = lay_out(manifest.blueprint, str(folder / MANIFEST), len(files.file_of))
    shapes = {name: tuple(value.shape) for name, value in layout.state_dict().items()}
    check_shapes(files.shapes(), shapes, folder / SINGLE)
    files.check_floats(shapes)
    return layout, {name: files.read(name) for name in shapes}


def fill(model: Module, weights: dict[str, Tensor]) -> Module:
    """A meta-device model with these tensors, in their dtype.

    Several dtypes become the widest of them, which computes the same.
    """
    dtypes = {value.dtype for value in weights.values()}
    if len(dtypes) > 1:  # norms kept in float32 beside bfloat16 matrices
        widest = torch.float32 if torch.float64 not in dtypes else torch.float64
        weights = {name: value.to(widest) for name, value in weights.items()}
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(True).eval()
    return model


def read_own_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a converted folder, or None.

    Raises: DataError when it is damaged.
    """
    if (folder / "tokenizer_kind.json").is_file():
        return load_tokenizer(folder)
    return read_tokenizer(folder / "tokenizer.json") if (folder / "tokenizer.json").is_file() else None


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer files unchanged.

    Raises: CheckpointError for JSON that cannot be read.
    """
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            if name.endswith(".json"):
                load_json(source / name, error=CheckpointError)
            shutil.copyfile(source / name, target / name)


def _ids(value: Ids) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)
