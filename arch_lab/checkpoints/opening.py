"""Open any checkpoint by its own files: run, fit, converted, Hugging Face.

Nothing of a checkpoint is executed: weights are read without pickled code, and a module that its options name
is imported only if the caller names it too (``trust``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arch_lab.checkpoints.blueprint import (
    build_filled,
    check_tensors,
    lay_out,
    recipe_of,
    refuse_non_decoder,
    require_decoder,
)
from arch_lab.checkpoints.checkpoint import Blueprint, Checkpoint, CheckpointError, Kind
from arch_lab.checkpoints.ckpt_file import blueprint_of, read_file, reading_of, tokenizer_of, weights_of
from arch_lab.checkpoints.folder import (
    MANIFEST,
    Manifest,
    fill,
    load_network,
    read_manifest,
    read_own_tokenizer,
)
from arch_lab.checkpoints.interop.huggingface import is_huggingface, read_config, read_tensors
from arch_lab.models.model import Model
from arch_lab.training.saving import intact
from blocks.errors import did_you_mean as nearest
from blocks.registry import import_only

MODEL = "model.ckpt"  # of a finished run


def open_checkpoint(path: str | Path, trust: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint at ``path``, a folder or a ``.ckpt`` file.

    ``trust``: modules that its options may name.
    Raises: UserError, one line that says what the path holds and what to give; TrustError for a module not
    named.
    """
    with import_only(trust):
        return _open(Path(path), decoder=False)


def open_decoder(path: str | Path, trust: Sequence[str] = ()) -> Checkpoint:
    """As ``open_checkpoint``, of a model that predicts the next token.

    Raises: ConfigError for any other, by its settings alone.
    """
    with import_only(trust):
        opened = _open(Path(path), decoder=True)
    require_decoder(opened.model, str(path))
    return opened


def _open(path: Path, decoder: bool) -> Checkpoint:
    try:
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, ValueError) as error:  # a name too long for the file system, or with a zero byte
        raise CheckpointError(f"checkpoint {str(path)[:80]!r}: {error}") from None
    if is_file:
        return _from_file(path, "fit", decoder)
    if not is_folder:
        raise _absent(path)
    return _from_folder(path, decoder)


def _absent(path: Path) -> CheckpointError:
    neighbours = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, neighbours)
    return CheckpointError(
        f"checkpoint {str(path)!r}: no such file or folder{hint if 'did you mean' in hint else ''}"
    )


def _from_folder(path: Path, decoder: bool) -> Checkpoint:
    if (path / MANIFEST).is_file():
        return _converted(path, decoder)
    if (path / MODEL).is_file():
        return _run(path, decoder)
    if is_huggingface(path):
        return _huggingface(path)
    if (path / "result.json").is_file():
        raise CheckpointError(
            f"{path}: no {MODEL}: the run did not finish, or it diverged; run arch-lab compare again"
        )
    return _from_file(_file_inside(path), "fit", decoder)


def checkpoint_file(path: str | Path, trust: Sequence[str] = ()) -> tuple[Path, Blueprint]:
    """The ``.ckpt`` file at ``path``, and the settings of its model.

    The weights are checked against the settings.

    Raises: UserError, also for a folder of another kind: its model can be scored, and a training started from
    it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / MODEL if (path / MODEL).is_file() else _file_inside(path)
    elif not path.is_file():
        raise _absent(path)
    content, origin = read_file(path), str(path)
    blueprint = blueprint_of(content, origin)
    with import_only(trust):
        layout = lay_out(blueprint, origin, len(content["state_dict"]))
        check_tensors(layout, weights_of(content), origin)
    return path, blueprint


def _file_inside(folder: Path) -> Path:
    """The one checkpoint file of a ``fit`` folder.

    Raises: CheckpointError with what there is to choose from.
    """
    if (folder / MANIFEST).is_file() or is_huggingface(folder):
        raise CheckpointError(
            f"{folder} is a converted model without training state: "
            f"arch-lab score {folder} --text FILES scores it, "
            f"arch-lab fit --model.initialise_from {folder} trains it further"
        )
    files = sorted({*folder.glob("*.ckpt"), *folder.glob("checkpoints/*.ckpt")})
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(str(f.relative_to(folder)) for f in files[:4])
        raise CheckpointError(f"{folder} holds {len(files)} checkpoints, give one: {names}")
    runs = sorted(folder.glob("runs/*/*/result.json"))
    if runs:
        raise CheckpointError(
            f"{folder} is a study of {len(runs)} runs; give one of them, for example {runs[0].parent}"
        )
    raise CheckpointError(
        f"{folder} holds no checkpoint: neither a finished run, nor a .ckpt file of arch-lab fit, "
        "nor a folder made by arch-lab convert or by Hugging Face"
    )


def _run(folder: Path, decoder: bool) -> Checkpoint:
    path = folder / MODEL
    if not intact(path):
        raise CheckpointError(
            f"{path}: does not match its checksum, so it is not used; "
            f"delete {folder} and run arch-lab compare again"
        )
    return _from_file(path, "run", decoder)


def _from_file(path: Path, kind: Kind, decoder: bool) -> Checkpoint:
    content = read_file(path)
    origin = str(path)
    blueprint = blueprint_of(content, origin)
    if decoder:
        refuse_non_decoder(recipe_of(blueprint, origin), origin)
    model = build_filled(blueprint, weights_of(content), origin)
    tokenizer = tokenizer_of(content, origin)
    separator = () if tokenizer is None else (tokenizer.separator,)
    reading, context = reading_of(content, origin)
    return Checkpoint(
        path=path if kind == "fit" else path.parent,
        model=model,
        blueprint=blueprint,
        tokenizer=tokenizer,
        begin=separator,
        end=frozenset(separator),
        kind=kind,
        context=min(context or blueprint.max_tokens, blueprint.max_tokens),
        reading=reading,
    )


def _converted(path: Path, decoder: bool) -> Checkpoint:
    manifest = read_manifest(path)
    if decoder:
        origin = str(path / MANIFEST)
        refuse_non_decoder(recipe_of(manifest.blueprint, origin), origin)
    return _of_folder(path, manifest, load_network(path, manifest), "converted")


def _huggingface(path: Path) -> Checkpoint:
    """Translated in memory: what ``arch-lab convert`` would write and read again."""
    manifest, family = read_config(path)
    tensors = read_tensors(path, manifest, family)
    model = fill(lay_out(manifest.blueprint, str(path), len(tensors)), tensors)
    return _of_folder(path, manifest, model, "huggingface")


def _of_folder(path: Path, manifest: Manifest, model: Model, kind: Kind) -> Checkpoint:
    return Checkpoint(
        path=path,
        model=model,
        blueprint=manifest.blueprint,
        tokenizer=read_own_tokenizer(path),
        begin=manifest.begin,
        end=manifest.end,
        kind=kind,
    )
