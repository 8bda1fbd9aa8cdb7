"""``arch_lab.convert``: formats of Hugging Face and M2-BERT into ours, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from arch_lab.checkpoints.checkpoint import CheckpointError
from arch_lab.checkpoints.folder import (
    MANIFEST,
    Manifest,
    copy_tokenizer,
    read_manifest,
    read_weights,
    write_manifest,
)
from arch_lab.checkpoints.interop.family import family_for
from arch_lab.checkpoints.interop.huggingface import (
    CONFIG,
    is_huggingface,
    read_config,
    read_tensors,
    write_huggingface,
)
from arch_lab.checkpoints.interop.m2_bert import (
    ARCHITECTURE,
    read_released,
    refuse_changed_mixers,
    write_released,
)
from arch_lab.checkpoints.interop.tokenizer import write_tokenizer
from arch_lab.checkpoints.opening import open_decoder
from arch_lab.checkpoints.storage import new_folder
from arch_lab.checkpoints.tensors import SINGLE, write_tensors
from arch_lab.data import Tokenizer
from arch_lab.stored import Json
from blocks.registry import import_only


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was written where."""

    source: str
    target: str
    to: str
    architecture: str
    tensors: int
    parameters: int
    dtype: str

    def to_dict(self) -> Json:
        """What ``--json`` prints."""
        return dict(vars(self))


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Literal["arch-lab", "huggingface", "m2-bert"] = "arch-lab",
    source_format: Literal["huggingface", "m2-bert"] = "huggingface",
    trust: Sequence[str] = (),
) -> Conversion:
    """Write the checkpoint at ``source`` to the new folder ``target``.

    To "arch-lab": ``source`` is a Hugging Face folder, or with ``source_format="m2-bert"`` a released M2-BERT
    state dict (a file, or a folder with pytorch_model.bin). To "m2-bert": a folder made here that holds an
    ``m2_bert``. To "huggingface": a folder made here, or a run or checkpoint trained here whose architecture
    that format knows. Tensors are copied bit for bit; nothing appears at ``target`` unless all is well.
    ``trust``: modules that a checkpoint's options may name.
    Raises: UserError, one line: the field, tensor or file that cannot be translated.
    """
    source, target = Path(source), Path(target)
    with import_only(trust):
        manifest, tensors, texts = _read(source, to, source_format)
    with new_folder(target) as folder:
        if to == "arch-lab":
            write_manifest(folder, manifest)
            write_tensors(folder / SINGLE, tensors)
        elif to == "m2-bert":
            write_released(folder, manifest, tensors)
        else:
            write_huggingface(folder, manifest, tensors)
        if isinstance(texts, Path):
            copy_tokenizer(texts, folder)
        elif texts is not None:
            write_tokenizer(folder, texts, manifest.blueprint.max_tokens)
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in tensors.values()})
    return Conversion(
        source=str(source),
        target=str(target),
        to=to,
        architecture=manifest.blueprint.architecture,
        tensors=len(tensors),
        parameters=sum(value.numel() for value in tensors.values()),
        dtype=", ".join(dtypes),
    )


def _read(
    source: Path, to: str, source_format: str
) -> tuple[Manifest, dict[str, Tensor], Path | Tokenizer | None]:
    if to == "m2-bert":
        return _read_own_m2_bert(source)
    if to == "huggingface":
        return _read_ours(source)
    if source_format == "m2-bert":
        return *read_released(source), source if source.is_dir() else None
    return _read_theirs(source)


def _read_own_m2_bert(source: Path) -> tuple[Manifest, dict[str, Tensor], Path]:
    if not (source / MANIFEST).is_file():
        raise CheckpointError(
            f"{source}: not a folder of arch-lab, which contains {MANIFEST}; "
            "to read a released M2-BERT, use --from m2-bert"
        )
    manifest = read_manifest(source)
    if manifest.blueprint.architecture != ARCHITECTURE:
        raise CheckpointError(
            f"{source} holds {manifest.blueprint.architecture!r}, which has no M2-BERT form; "
            f"only {ARCHITECTURE!r} does"
        )
    refuse_changed_mixers(manifest.blueprint)
    return manifest, read_weights(source, manifest)[1], source


def _read_theirs(source: Path) -> tuple[Manifest, dict[str, Tensor], Path]:
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such folder; give the folder that holds {CONFIG} and {SINGLE}")
    if (source / MANIFEST).is_file():
        raise CheckpointError(f"{source} already is a folder of arch-lab; --to huggingface converts it back")
    if (source / "result.json").is_file() or not (source / CONFIG).is_file():
        raise CheckpointError(
            f"{source}: not a Hugging Face checkpoint, which contains {CONFIG} with a model_type, "
            f"and {SINGLE}"
        )
    manifest, family = read_config(source)
    return manifest, read_tensors(source, manifest, family), source


def _read_ours(source: Path) -> tuple[Manifest, dict[str, Tensor], Path | Tokenizer | None]:
    if source.is_dir() and (source / MANIFEST).is_file():
        manifest = read_manifest(source)
        family_for(manifest.blueprint.architecture)
        return manifest, read_weights(source, manifest)[1], source
    if source.is_dir() and is_huggingface(source):
        raise CheckpointError(
            f"{source} already is a Hugging Face folder; "
            "leave out --to huggingface to convert it to arch-lab's format"
        )
    opened = open_decoder(source)
    begin, end = next(iter(opened.begin), None), next(iter(opened.end), None)
    manifest = Manifest(blueprint=opened.blueprint, begin_text=begin, end_text=end)
    return manifest, dict(opened.model.state_dict()), opened.tokenizer
