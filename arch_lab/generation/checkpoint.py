"""Any checkpoint arch-lab writes, opened for generation: a run of a study, a file of ``fit``, a converted folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from arch_lab.architecture import Decoder, Shape, recipe
from arch_lab.data import Tokenizer, tokenizer_from
from blocks.errors import UserError
from blocks.errors import did_you_mean as nearest

SHAPE = ("width", "depth", "ffn_width")


class CheckpointError(UserError):
    """A path that holds no checkpoint, or not a whole one."""


@dataclass(frozen=True)
class Checkpoint:
    """A decoder in evaluation mode and what its ids mean.

    ``begin`` goes before every prompt, an id of ``end`` ends the text; ``architecture``, ``options`` and ``shape`` rebuild it.
    """

    path: Path
    model: Decoder
    tokenizer: Tokenizer | None
    begin: tuple[int, ...]
    end: frozenset[int]
    max_tokens: int
    vocabulary: int
    architecture: str
    options: dict[str, Any]
    shape: Shape


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint at ``path``. Raises: UserError, one line that says what the path holds instead and what to give."""
    path = Path(path)
    if path.is_file():
        return _fit_file(path)
    if not path.is_dir():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        raise CheckpointError(f"checkpoint {str(path)!r}: no such file or folder{near if 'did you mean' in near else ''}")

    from arch_lab.interop.folder import MANIFEST
    from arch_lab.interop.huggingface import is_huggingface

    if (path / MANIFEST).is_file():
        return _converted(path)
    if is_huggingface(path):
        raise CheckpointError(f"{path} is a Hugging Face checkpoint; first: arch-lab convert {path} {path.name}-converted")
    if (path / "result.json").is_file():
        return _run(path)
    return _inside(path)


def _inside(folder: Path) -> Checkpoint:
    """The one checkpoint file of a ``fit`` folder. Raises: CheckpointError with what there is to choose from."""
    found = sorted({*folder.glob("*.ckpt"), *folder.glob("checkpoints/*.ckpt")})
    if len(found) == 1:
        return _fit_file(found[0])
    if found:
        raise CheckpointError(
            f"{folder} holds {len(found)} checkpoints, give one: {', '.join(str(f.relative_to(folder)) for f in found[:4])}"
        )
    runs = sorted(folder.glob("runs/*/*/result.json"))
    if runs:
        raise CheckpointError(f"{folder} is a study of {len(runs)} runs; give one of them, for example {runs[0].parent}")
    raise CheckpointError(
        f"{folder} holds no checkpoint: neither a finished run, nor a .ckpt file of arch-lab fit, nor a folder made by arch-lab convert"
    )


def _run(folder: Path) -> Checkpoint:
    from arch_lab.study.load import load_run

    loaded = load_run(folder)
    config = loaded.config
    if not isinstance(loaded.model, Decoder) or not loaded.model.causal:
        raise CheckpointError(
            f"{folder}: {config['architecture']!r} is no decoder, so it cannot go on with a text; its hidden states: arch_lab.load_body"
        )
    return _own(folder, loaded.model, loaded.tokenizer, {**config, "max_tokens": config["training"]["sequence_length"]})


def _fit_file(path: Path) -> Checkpoint:
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        settings, weights = dict(kept["hyper_parameters"]), kept["state_dict"]
    except Exception as error:  # torch raises half a dozen types for what is not, or no longer, a checkpoint
        raise CheckpointError(f"{path}: not a readable checkpoint of arch-lab ({type(error).__name__}); it may be cut short") from None
    missing = [key for key in ("architecture", *SHAPE, "vocabulary", "max_tokens") if key not in settings]
    if missing:
        raise CheckpointError(f"{path}: its settings lack {missing[0]!r}, so the model cannot be rebuilt; was it written by arch-lab fit?")
    shape = Shape(**{name: settings[name] for name in SHAPE})
    model = recipe(settings["architecture"], settings["options"]).model(
        shape, vocabulary=settings["vocabulary"], max_tokens=settings["max_tokens"]
    )
    try:
        model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights do not fit its settings ({str(error).splitlines()[-1].strip()})") from None
    tokenizer = tokenizer_from(kept["tokenizer"]) if "tokenizer" in kept else None
    return _own(path, model.eval(), tokenizer, settings)


def _own(path: Path, model: Decoder, tokenizer: Tokenizer | None, settings: dict[str, Any]) -> Checkpoint:
    """Trained here: documents are separated by one token, which therefore begins and ends a text."""
    separator = () if tokenizer is None else (tokenizer.separator,)
    return Checkpoint(
        path=path,
        model=model,
        tokenizer=tokenizer,
        begin=separator,
        end=frozenset(separator),
        max_tokens=settings["max_tokens"],
        vocabulary=settings["vocabulary"],
        architecture=settings["architecture"],
        options=settings["options"] or {},
        shape=Shape(**{name: settings[name] for name in SHAPE}),
    )


def _converted(path: Path) -> Checkpoint:
    from arch_lab.interop.folder import load_model, read_manifest, read_own_tokenizer

    manifest = read_manifest(path)
    blueprint = manifest.blueprint
    return Checkpoint(
        path=path,
        model=load_model(path, manifest),
        tokenizer=read_own_tokenizer(path),
        begin=manifest.begin,
        end=manifest.end,
        max_tokens=blueprint.max_tokens,
        vocabulary=blueprint.vocabulary,
        architecture=blueprint.architecture,
        options=blueprint.options,
        shape=blueprint.shape,
    )
