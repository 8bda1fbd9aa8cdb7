"""Checkpoint folders of Hugging Face: config.json and safetensors, in and out. Tensors are copied, never computed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, equal

from arch_lab.interop.family import TOKENS, Family, Fields, InteropError, family_for, family_of
from arch_lab.interop.folder import Manifest, copy_tokenizer
from arch_lab.interop.tensors import SINGLE, TensorFiles, check_shapes, read_object, write_object, write_tensors

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
DEFAULTS: dict[str, Any] = {
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
    """True for a folder whose config.json names a model type (a run of a study has a config.json too, of another kind)."""
    path = folder / CONFIG
    if not path.is_file():
        return False
    try:
        return "model_type" in read_object(path)
    except InteropError:
        return not (folder / "result.json").is_file()


def read_config(folder: Path) -> tuple[Manifest, Family]:
    """Raises: InteropError naming the first field that our blocks cannot follow."""
    where = str(folder / CONFIG)
    content = read_object(folder / CONFIG)
    if "vision_config" in content or "audio_config" in content:
        raise InteropError(f"{where}: a multimodal checkpoint; only text decoders are converted (model_type {content.get('model_type')!r})")
    fields = Fields(content, where)
    family = family_of(fields.take("model_type"), where)
    begin, end, padding = family.read_tokens(fields).values()
    blueprint = family.read_config(fields)
    fields.finish(IGNORED, DEFAULTS)
    return Manifest(blueprint=blueprint, begin_text=begin, end_text=end, padding=padding), family


def read_tensors(folder: Path, manifest: Manifest, family: Family) -> dict[str, Tensor]:
    """Every tensor under our names, bit for bit. Raises: InteropError for what is missing, misshapen or superfluous."""
    files = TensorFiles(folder)
    shapes = family.skeleton(manifest.blueprint)
    found = files.shapes()
    for name in list(found):
        twin = family.redundant(name)
        if twin is not None and twin in found and name != twin:
            if found[name] != found[twin] or not equal(files.read(name), files.read(twin)):
                raise InteropError(f"{folder}: tensor {name!r} differs from {twin!r}; here they are one, tied")
            del found[name]
    check_shapes(found, {family.their_name(name): shape for name, shape in shapes.items()}, folder)
    return {name: files.read(family.their_name(name)) for name in shapes}


def write_huggingface(folder: Path, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
    """config.json and model.safetensors, as ``from_pretrained`` reads them. Raises: InteropError for what cannot be said there."""
    family = family_for(manifest.blueprint.architecture)
    config = family.write_config(manifest.blueprint)
    dtypes = {str(value.dtype).removeprefix("torch.") for value in tensors.values()}
    family.write_tokens(config, dict(zip(TOKENS, (manifest.begin_text, manifest.end_text, manifest.padding), strict=True)))
    config["dtype"] = min(dtypes) if len(dtypes) == 1 else "float32"
    write_object(folder / CONFIG, config)
    write_tensors(folder / SINGLE, {family.their_name(name): value for name, value in tensors.items()})


__all__ = ["CONFIG", "copy_tokenizer", "is_huggingface", "read_config", "read_tensors", "write_huggingface"]
