"""Released M2-BERT state dicts: into ``m2_bert`` and back.

Legend: D width, F ffn_width, K blocks, L max_tokens, R filter order, E features of a position.
Source: HazyResearch/m2, bert/src/bert_layers.py (BertForMaskedLM), mm/monarch_mixer_sequence_mixer.py,
mm/hyena_utils.py. A state dict has no configuration: sizes are read off its shapes, options off the names it
holds. What it cannot say is taken as in every shipped YAML: sines without a second factor (hyena_w_mod 1),
erf GELU, LayerNorm eps 1e-12; a config.json beside it that says otherwise is refused. Not held here, and
written back from their formulas: position_ids, and each filter's time grid and decay rates.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from arch_lab.checkpoints.checkpoint import Blueprint, CheckpointError
from arch_lab.checkpoints.folder import Manifest
from arch_lab.checkpoints.interop.family import Fields
from arch_lab.checkpoints.storage import read_object
from arch_lab.checkpoints.tensors import check_shapes
from arch_lab.data import DataError
from arch_lab.data.archives import check_stored
from arch_lab.models import Shape, recipe
from blocks.convolution.filter import decay_rates, default_positions

ARCHITECTURE, WEIGHTS, CONFIG = "m2_bert", "pytorch_model.bin", "config.json"
WORDS: Final = "bert.embeddings.word_embeddings.weight"
ENDS: Final = {
    "embedding.words": (WORDS, "cls.predictions.decoder.weight"),
    "embedding.kinds": ("bert.embeddings.token_type_embeddings.weight",),
    "embedding.places": ("bert.embeddings.position_embeddings.weight",),
    "embedding.norm.weight": ("bert.embeddings.LayerNorm.weight",),
    "embedding.norm.bias": ("bert.embeddings.LayerNorm.bias",),
    "embedding.bias": ("cls.predictions.decoder.bias",),
    "head.dense.weight": ("cls.predictions.transform.dense.weight",),
    "head.dense.bias": ("cls.predictions.transform.dense.bias",),
    "head.norm.weight": ("cls.predictions.transform.LayerNorm.weight",),
    "head.norm.bias": ("cls.predictions.transform.LayerNorm.bias",),
}
PARTS: Final = {
    "norm": "mlp.layernorm",
    "mixer_norm": "attention.layernorm",  # of hyena_training_additions
    "channel.up": "mlp.gated_layers",
    "channel.down": "mlp.wo",
    "mixer.in_linear": "attention.in_linear",
    "mixer.out_linear": "attention.out_linear",
    "mixer.short": "attention.short_filter",
}
FILTERS: Final = {"long": "attention.filter_fn", "residual": "attention.filter_fn2"}
DIRECTIONS: Final = {"ahead": "implicit_filter", "behind": "implicit_filter_rev"}
# tensors that ask for what m2_bert does not compute
REFUSED: Final = {
    r"attention\.self\.": "its layers are attention",
    r"\.pooler\.": "m2_bert has no pooler; it is a masked-token model (BertForMaskedLM)",
    r"(^|\.)classifier\.": "m2_bert has no classifier; it is a masked-token model (BertForMaskedLM)",
}
# what a config.json may hold where a state dict says nothing
FIXED: Final[dict[str, tuple[tuple[Any, ...], str]]] = {
    "hyena_w_mod": ((1,), "the sines take one frequency, without a second factor"),
    "hidden_act": (("gelu",), "the activation is an erf GELU"),
    "layer_norm_eps": ((1e-12,), "the norms add 1e-12"),
}


def their_names(name: str) -> tuple[str, ...]:
    """The released names of one of our parameters.

    The first holds it; the others are tied copies.
    """
    if name in ENDS:
        return ENDS[name]
    _, i, inner_name = name.split(".", 2)
    layer = f"bert.encoder.layer.{i}"
    block, _, leaf = inner_name.rpartition(".")
    if block in PARTS:
        return (f"{layer}.{PARTS[block]}.{leaf}",)
    _, filter_name, *inner = inner_name.split(".")
    prefix = f"{layer}.{FILTERS[filter_name]}"
    if inner == ["skip"]:
        return (f"{prefix}.bias",)
    if inner[1] == "positions":
        return (f"{prefix}.pos_emb.z",)
    if inner[1] == "frequency":  # one vector serves the three sines of both directions
        return tuple(f"{prefix}.{direction}.{k}.freq" for direction in DIRECTIONS.values() for k in (1, 3, 5))
    # maps and sines alternate there
    return (f"{prefix}.{DIRECTIONS[inner[1]]}.{2 * int(inner[2])}.{inner[3]}",)


def their_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the released tensor.

    (C, 1, W) short taps; a leading 1 before positions and frequencies.
    """
    if name.endswith("mixer.short.weight"):
        return (shape[0], 1, shape[1])
    return (1, *shape) if name.endswith((".positions", ".frequency")) else shape


def formulas(blueprint: Blueprint) -> dict[str, Tensor]:
    """The released buffers that are not trained.

    Position numbers, and each filter's time grid (1, L, 1) and decay rates (1, 1, D).
    """
    length, width = blueprint.max_tokens, blueprint.shape.width
    buffers = {"bert.embeddings.position_ids": torch.arange(length)[None]}
    for i in range(blueprint.shape.depth):
        for name in FILTERS.values() if blueprint.options["residual_long_conv"] else (FILTERS["long"],):
            prefix = f"bert.encoder.layer.{i}.{name}"
            buffers[f"{prefix}.pos_emb.t"] = default_positions(length, 3)[None, :, :1].clone()
            buffers[f"{prefix}.modulation.deltas"] = -decay_rates(width)[None, None]
    return buffers


def refuse_changed_mixers(blueprint: Blueprint) -> None:
    """Raises: CheckpointError for mixers that the released class does not have."""
    for option in ("ablate", "taps"):
        if value := blueprint.options.get(option):
            raise CheckpointError(
                f"m2-bert: {option} {value!r} cannot be written: released mixers have every part, "
                "and kernels as long as the sequence"
            )


def skeleton(blueprint: Blueprint) -> dict[str, tuple[int, ...]]:
    """Name and shape of each of our parameters, without memory."""
    model_recipe = recipe(blueprint.architecture, blueprint.options)
    config = model_recipe.config(
        blueprint.shape, vocabulary=blueprint.vocabulary, max_tokens=blueprint.max_tokens
    )
    return {name: tuple(value.shape) for name, value in config.build("meta").state_dict().items()}


def read_released(source: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """Every parameter under our name, bit for bit.

    ``source``: the file of a state dict, or a folder that holds ``pytorch_model.bin``.
    Raises: CheckpointError for a file that is no such state dict, and for each tensor that is missing,
    misshapen, not equal to what it is tied to or computed from, or of no use to ``m2_bert``.
    """
    path = source / WEIGHTS if source.is_dir() else source
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file; give the state dict of a released M2-BERT, "
            f"or the folder that holds {WEIGHTS}"
        )
    if (source / CONFIG).is_file():
        fields = Fields(read_object(source / CONFIG), str(source / CONFIG))
        for name, (allowed, reason) in FIXED.items():
            fields.only(name, allowed, reason)
    state = _state(path)
    for name in state:
        for pattern, reason in REFUSED.items():
            if re.search(pattern, name):
                raise CheckpointError(f"{path}: tensor {name!r} is not supported: {reason}")
    blueprint = _blueprint(state, path)
    shapes, shapes_found = skeleton(blueprint), {name: tuple(value.shape) for name, value in state.items()}
    for name, value in formulas(blueprint).items():
        if name in state and not _same(state[name], value):
            raise CheckpointError(f"{path}: tensor {name!r} differs from its formula, which m2_bert computes")
        shapes_found.pop(name, None)
    for names in map(their_names, shapes):
        for copy in names[1:]:
            if copy in state and names[0] in state and not torch.equal(state[copy], state[names[0]]):
                raise CheckpointError(
                    f"{path}: tensor {copy!r} differs from {names[0]!r}; arch-lab ties them to one tensor"
                )
            shapes_found.pop(copy, None)
    check_shapes(
        shapes_found, {their_names(name)[0]: their_shape(name, shape) for name, shape in shapes.items()}, path
    )
    tensors = {name: state[their_names(name)[0]].reshape(shape) for name, shape in shapes.items()}
    return Manifest(blueprint=blueprint), tensors


def write_released(folder: Path, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
    """``pytorch_model.bin`` with every tensor that BertForMaskedLM holds, copies and formulas included."""
    state: dict[str, Tensor] = {}
    for name, value in tensors.items():
        value = value.reshape(their_shape(name, tuple(value.shape)))
        state |= dict.fromkeys(their_names(name), value)
    dtype = tensors["embedding.words"].dtype
    state |= {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in formulas(manifest.blueprint).items()
    }
    torch.save(state, folder / WEIGHTS)


def _state(path: Path) -> dict[str, Tensor]:
    """The tensors by their names in BertForMaskedLM.

    Wrappers of trainers and prefixes are removed. Raises: CheckpointError.
    """
    try:
        if zipfile.is_zipfile(path):
            check_stored(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except Exception as error:  # torch raises half a dozen types for what is no file of tensors
        raise CheckpointError(
            f"{path}: not readable as plain tensors ({type(error).__name__}); save only the state dict"
        ) from None
    # Composer: {"state": {"model": …}}; Lightning: {"state_dict": …}
    for key in ("state", "model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise CheckpointError(f"{path}: not a state dict (a mapping of names to tensors)")
    prefix = next((name.removesuffix(WORDS) for name in content if name.endswith(WORDS)), None)
    if prefix is None:
        raise CheckpointError(f"{path}: not a state dict of M2-BERT: tensor {WORDS!r} is missing")
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _blueprint(state: dict[str, Tensor], path: Path) -> Blueprint:
    """Sizes, from the shapes of the first layer.

    The other layers are compared with them later. Raises: CheckpointError.
    """
    layer = "bert.encoder.layer.0"

    def shape(name: str, axes: int, reason: str) -> tuple[int, ...]:
        if name not in state:
            raise CheckpointError(f"{path}: tensor {name!r} is missing: {reason}")
        if state[name].dim() != axes:
            raise CheckpointError(f"{path}: tensor {name!r} has shape {list(state[name].shape)}: {reason}")
        return tuple(state[name].shape)

    vocabulary, width = shape(WORDS, 2, "a table of words is expected")
    max_tokens, _ = shape(ENDS["embedding.places"][0], 2, "m2_bert learns its positions")
    blocks, up, _ = shape(f"{layer}.mlp.gated_layers.weight", 3, "m2_bert has block-diagonal channel mixers")
    _, _, down = shape(f"{layer}.mlp.wo.weight", 3, "m2_bert has block-diagonal channel mixers")
    if up != 2 * down:
        raise CheckpointError(
            f"{path}: tensor '{layer}.mlp.gated_layers.weight' is not twice as wide as wo: "
            "m2_bert's channel mixer is gated"
        )
    order, emb = shape(
        f"{layer}.attention.filter_fn.implicit_filter.0.weight", 2, "m2_bert has implicit filters"
    )
    shape(f"{layer}.attention.filter_fn.implicit_filter_rev.0.weight", 2, "m2_bert is bidirectional")
    matches = (re.match(r"bert\.encoder\.layer\.(\d+)\.", name) for name in state)
    numbers = [int(match[1]) for match in matches if match]
    options = {
        "blocks": blocks,
        "filter_order": order,
        "filter_emb": emb,
        "residual_long_conv": any(name.startswith(f"{layer}.{FILTERS['residual']}.") for name in state),
        "start": "released",
        "input_norm": f"{layer}.attention.layernorm.weight" in state,
    }
    size = Shape(width=width, depth=max(numbers) + 1, ffn_width=blocks * down)
    return Blueprint(
        architecture=ARCHITECTURE, options=options, shape=size, vocabulary=vocabulary, max_tokens=max_tokens
    )


def _same(stored_value: Tensor, formula: Tensor) -> bool:
    """Whether a stored tensor equals its formula, up to rounding.

    The rounding is that of float32 (a GPU's linspace differs in the last bit), or of a coarser stored dtype.
    """
    if stored_value.shape != formula.shape:
        return False
    tolerance = max(1e-6, torch.finfo(stored_value.dtype).eps) if stored_value.is_floating_point() else 0.0
    return bool(
        (stored_value.double() - formula.double()).abs().max()
        <= tolerance * max(1.0, float(formula.abs().max()))
    )
