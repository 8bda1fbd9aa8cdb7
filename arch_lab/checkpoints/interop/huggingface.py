"""Checkpoint folders of Hugging Face: config.json and safetensors, in and out.

Tensors are copied, never computed with.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, allclose, equal

from arch_lab.checkpoints.checkpoint import Blueprint, CheckpointError
from arch_lab.checkpoints.folder import Manifest
from arch_lab.checkpoints.interop.family import TOKENS, Family, Fields, family_for, family_of
from arch_lab.checkpoints.storage import read_object, write_object
from arch_lab.checkpoints.tensors import SINGLE, TensorFiles, check_shapes, write_tensors
from arch_lab.stored import Json
from blocks.errors import ConfigError

CONFIG = "config.json"
# what may stand in a config.json without changing what the model computes
IGNORED = (
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "_sliding_window_pattern",  # an echo of layer_types
    "architectures",  # the tensors say whether there is another head
    "attn_implementation",
    "cache_implementation",
    "dtype",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "sliding_window_pattern",  # where layer_types decides
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
# fields of every configuration of transformers that change the function unless they hold these values
DEFAULTS: Json = {
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "partial_rotary_factor": 1.0,
    "per_layer_config": None,
    "pruned_heads": {},
    "quantization_config": None,
    "tie_encoder_decoder": False,
    "torchscript": False,
}


def is_huggingface(folder: Path) -> bool:
    """Whether the folder holds a config.json with a model type.

    A run of a study has a config.json of another kind.
    """
    path = folder / CONFIG
    if not path.is_file():
        return False
    try:
        return "model_type" in read_object(path)
    except CheckpointError:
        return not (folder / "result.json").is_file()


def read_config(folder: Path) -> tuple[Manifest, Family]:
    """Raises: CheckpointError naming the first field that our blocks cannot follow."""
    origin = str(folder / CONFIG)
    fields = Fields(read_object(folder / CONFIG), origin)
    family = family_of(fields.take("model_type"), origin)
    begin, end, padding = family.read_tokens(fields).values()
    blueprint = family.read_config(fields)
    fields.finish(IGNORED, DEFAULTS)
    return Manifest(blueprint=blueprint, begin_text=begin, end_text=end, padding=padding), family


def read_tensors(folder: Path, manifest: Manifest, family: Family) -> dict[str, Tensor]:
    """Every tensor under our names, bit for bit.

    Raises: CheckpointError for what is missing, misshapen, superfluous or not floating point, and for a
    configuration that asks for more layers than the files hold tensors.
    """
    files, blueprint = TensorFiles(folder), manifest.blueprint
    stored = _text_names(files, family)
    if family.layers(blueprint) > len(stored):
        raise CheckpointError(
            f"{folder / CONFIG}: {family.layers(blueprint):,} layers do not fit files of {len(stored)} "
            "tensors"
        )
    shapes = _expected(family, blueprint, folder)
    sizes, lookup = files.shapes(), {}
    for name, file_name in stored.items():
        if not _is_copy(files, stored, name, family, blueprint):
            lookup[name] = file_name
    shapes_found = {name: sizes[file_name] for name, file_name in lookup.items()}
    check_shapes(shapes_found, {family.their_name(name): shape for name, shape in shapes.items()}, folder)
    files.check_floats(lookup.values())
    return {name: files.read(lookup[family.their_name(name)]) for name in shapes}


def _expected(family: Family, blueprint: Blueprint, folder: Path) -> dict[str, tuple[int, ...]]:
    """Our names and shapes.

    Raises: UserError, one line, for a configuration that describes no model.
    """
    try:
        return family.skeleton(blueprint)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG}: {error}") from None
    except (RuntimeError, OverflowError, ValueError, TypeError) as error:  # sizes whose product is no size
        raise CheckpointError(
            f"{folder / CONFIG}: does not describe a model that can be built "
            f"({' '.join(str(error).split())[:200]})"
        ) from None


def _text_names(files: TensorFiles, family: Family) -> dict[str, str]:
    """Name in a text checkpoint -> name in the file.

    Raises: CheckpointError when two names are one.
    """
    names: dict[str, str] = {}
    for stored in files.file_of:
        name = family.text_name(stored)
        if name is None:
            continue
        if name in names:
            raise CheckpointError(
                f"{files.folder}: tensors {names[name]!r} and {stored!r} are the same part of the model"
            )
        names[name] = stored
    return names


def _is_copy(
    files: TensorFiles, stored: dict[str, str], name: str, family: Family, blueprint: Blueprint
) -> bool:
    """True for a tensor that repeats another, or a formula.

    Raises: CheckpointError when it does not repeat it.
    """
    twin = family.redundant(name)
    if twin is not None and twin in stored and name != twin:
        files.check_floats([stored[name], stored[twin]])
        if not equal(files.read(stored[name]), files.read(stored[twin])):
            raise CheckpointError(
                f"{files.folder}: tensor {stored[name]!r} differs from {stored[twin]!r}; "
                "arch-lab ties them to one tensor"
            )
        return True
    expected = family.frequencies(name, blueprint)
    if expected is None:
        return False
    files.check_floats([stored[name]])
    stored_values = files.read(stored[name]).double()
    # bfloat16 at the coarsest
    if stored_values.shape != expected.shape or not allclose(stored_values, expected, rtol=1e-2, atol=0):
        raise CheckpointError(
            f"{files.folder}: tensor {stored[name]!r} does not equal the frequencies of its configuration"
        )
    return True


def write_huggingface(folder: Path, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
    """config.json and model.safetensors, as ``from_pretrained`` reads them.

    Raises: CheckpointError for what cannot be said there.
    """
    family = family_for(manifest.blueprint.architecture)
    config = family.write_config(manifest.blueprint)
    dtypes = {str(value.dtype).removeprefix("torch.") for value in tensors.values()}
    family.write_tokens(
        config, dict(zip(TOKENS, (manifest.begin_text, manifest.end_text, manifest.padding), strict=True))
    )
    config["dtype"] = min(dtypes) if len(dtypes) == 1 else "float32"
    write_object(folder / CONFIG, config)
    write_tensors(folder / SINGLE, {family.their_name(name): value for name, value in tensors.items()})
