"""Any checkpoint, opened by its own files: a run of a study, a file of ``fit``, a converted folder, a Hugging Face folder.

Nothing of a checkpoint is executed: weights are read without pickled code, and a module that its options name is imported
only if the caller names it too (``trust``).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arch_lab.checkpoints.checkpoint import Checkpoint, CheckpointError, Kind, Reading
from arch_lab.data import Tokenizer, tokenizer_from
from arch_lab.interop.blueprint import build_filled, check_tensors, lay_out, read_blueprint, recipe_of, refuse_non_decoder, require_decoder
from arch_lab.interop.family import Blueprint
from arch_lab.models import Shape
from blocks.errors import UserError
from blocks.errors import did_you_mean as nearest
from blocks.registry import import_only

MODEL = "model.ckpt"  # of a finished run
PREFIX = "model."  # of the network's parameters in a .ckpt file


def open_checkpoint(path: str | Path, trust: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint at ``path``: a folder or a ``.ckpt`` file. ``trust``: modules that its options may name.

    Raises: UserError, one line that says what the path holds instead and what to give; TrustError for a module not named.
    """
    with import_only(trust):
        return _open(Path(path), decoder=False)


def open_decoder(path: str | Path, trust: Sequence[str] = ()) -> Checkpoint:
    """As ``open_checkpoint``, of a model that predicts the next token. Raises: ConfigError for any other, by its settings alone."""
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
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, beside)
    return CheckpointError(f"checkpoint {str(path)!r}: no such file or folder{near if 'did you mean' in near else ''}")


def _from_folder(path: Path, decoder: bool) -> Checkpoint:
    from arch_lab.interop.folder import MANIFEST
    from arch_lab.interop.huggingface import is_huggingface

    if (path / MANIFEST).is_file():
        return _converted(path, decoder)
    if (path / MODEL).is_file():
        return _run(path, decoder)
    if is_huggingface(path):
        return _huggingface(path)
    if (path / "result.json").is_file():
        raise CheckpointError(f"{path}: no {MODEL}: the run did not finish, or it diverged; run arch-lab compare again")
    return _from_file(_file_inside(path), "fit", decoder)


def checkpoint_file(path: str | Path, trust: Sequence[str] = ()) -> tuple[Path, Blueprint]:
    """The ``.ckpt`` file that ``path`` is or holds, and the settings of its model, which its weights fit.

    Raises: UserError, also for a folder of another kind: its model can be scored, and a training started from it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / MODEL if (path / MODEL).is_file() else _file_inside(path)
    elif not path.is_file():
        raise _absent(path)
    content, where = read_file(path), str(path)
    blueprint = blueprint_of(content, where)
    with import_only(trust):
        layout = lay_out(blueprint, where, len(content["state_dict"]))
        check_tensors(layout, _weights(content), where)
    return path, blueprint


def _file_inside(folder: Path) -> Path:
    """The one checkpoint file of a ``fit`` folder. Raises: CheckpointError with what there is to choose from."""
    from arch_lab.interop.folder import MANIFEST
    from arch_lab.interop.huggingface import is_huggingface

    if (folder / MANIFEST).is_file() or is_huggingface(folder):
        raise CheckpointError(
            f"{folder} is a converted model and holds no training: arch-lab score {folder} --text FILES scores it, "
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
        raise CheckpointError(f"{folder} is a study of {len(runs)} runs; give one of them, for example {runs[0].parent}")
    raise CheckpointError(
        f"{folder} holds no checkpoint: neither a finished run, nor a .ckpt file of arch-lab fit, nor a folder made by "
        "arch-lab convert or by Hugging Face"
    )


def _run(folder: Path, decoder: bool) -> Checkpoint:
    path = folder / MODEL
    if not _matches_checksum(path):
        raise CheckpointError(f"{path}: does not match its checksum, so it is not used; delete {folder} and run arch-lab compare again")
    return _from_file(path, "run", decoder)


def _from_file(path: Path, kind: Kind, decoder: bool) -> Checkpoint:
    content = read_file(path)
    where = str(path)
    blueprint = blueprint_of(content, where)
    if decoder:
        refuse_non_decoder(recipe_of(blueprint, where), where)
    model = build_filled(blueprint, _weights(content), where)
    tokenizer = tokenizer_of(content, where)
    separator = () if tokenizer is None else (tokenizer.separator,)
    reading, context = reading_of(content, where)
    return _checkpoint(
        path if kind == "fit" else path.parent,
        model,
        blueprint,
        tokenizer,
        begin=separator,
        end=frozenset(separator),
        kind=kind,
        context=min(context or blueprint.max_tokens, blueprint.max_tokens),
        reading=reading,
    )


def read_file(path: Path) -> dict[str, Any]:
    """The content of a ``.ckpt`` file, with a plain ``hyper_parameters`` and a ``state_dict`` of tensors.

    Raises: CheckpointError when it is none, is cut short, or holds anything but plain values and tensors.
    """
    try:
        if not zipfile.is_zipfile(path):  # torch would take anything else for its old format
            raise CheckpointError(f"{path}: not a readable checkpoint of arch-lab (no zip archive); it may be cut short")
        content = torch.load(path, map_location="cpu", weights_only=True)
        settings, weights = content["hyper_parameters"], content["state_dict"]
    except CheckpointError:
        raise
    except Exception as error:  # torch raises half a dozen types for what is not, or no longer, a checkpoint
        raise CheckpointError(f"{path}: not a readable checkpoint of arch-lab ({type(error).__name__}); it may be cut short") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: hyper_parameters is a {type(settings).__name__}, expected the settings of a model")
    if not isinstance(weights, dict) or not all(isinstance(k, str) and _is_dense(v) for k, v in weights.items()):
        raise CheckpointError(f"{path}: state_dict is not a table of plain tensors")
    return dict(content)


def blueprint_of(content: dict[str, Any], where: str) -> Blueprint:
    """The settings of the model in the content of a ``.ckpt`` file. Raises: UserError."""
    return read_blueprint(content["hyper_parameters"], where)


def _weights(content: dict[str, Any]) -> dict[str, Tensor]:
    """Parameters of the network under its own names."""
    return {name.removeprefix(PREFIX): value for name, value in content["state_dict"].items() if name.startswith(PREFIX)}


def tokenizer_of(content: dict[str, Any], where: str) -> Tokenizer | None:
    """The tokenizer that a ``.ckpt`` file carries; None for one that carries none. Raises: UserError."""
    if content.get("tokenizer") is None:
        return None
    try:
        return tokenizer_from(content["tokenizer"])
    except UserError as error:
        raise CheckpointError(f"{where}: {error}") from None
    except Exception as error:
        raise CheckpointError(f"{where}: its tokenizer is unreadable ({type(error).__name__})") from None


def reading_of(content: dict[str, Any], where: str) -> tuple[Reading, int | None]:
    """How the text of training was read, and the tokens of a sequence; None in files that do not say. Raises: CheckpointError."""
    stored = content.get("reading")
    if stored is None:
        return Reading(), None
    types = {"document_start": (str, type(None)), "text_column": (str,), "count_line_ends": (bool,), "sequence_length": (int,)}
    if not isinstance(stored, dict) or set(stored) != set(types) or not all(isinstance(stored[k], t) for k, t in types.items()):
        raise CheckpointError(f"{where}: what it says about the reading of text is damaged")
    values = dict(stored)
    length = values.pop("sequence_length")
    if length < 1:
        raise CheckpointError(f"{where}: sequence_length {length} is not a whole number of at least 1")
    return Reading(**values), length


def _converted(path: Path, decoder: bool) -> Checkpoint:
    from arch_lab.interop.folder import MANIFEST, load_network, read_manifest, read_own_tokenizer

    manifest = read_manifest(path)
    if decoder:
        where = str(path / MANIFEST)
        refuse_non_decoder(recipe_of(manifest.blueprint, where), where)
    model = load_network(path, manifest)
    tokenizer = read_own_tokenizer(path)
    return _checkpoint(path, model, manifest.blueprint, tokenizer, begin=manifest.begin, end=manifest.end, kind="converted")


def _huggingface(path: Path) -> Checkpoint:
    """Translated in memory: what ``arch-lab convert`` would write and read again."""
    from arch_lab.interop.folder import fill, read_own_tokenizer
    from arch_lab.interop.huggingface import read_config, read_tensors

    manifest, family = read_config(path)
    tensors = read_tensors(path, manifest, family)
    model = fill(lay_out(manifest.blueprint, str(path), len(tensors)), tensors)
    tokenizer = read_own_tokenizer(path)
    return _checkpoint(path, model, manifest.blueprint, tokenizer, begin=manifest.begin, end=manifest.end, kind="huggingface")


def _checkpoint(
    path: Path,
    model: Any,
    blueprint: Blueprint,
    tokenizer: Tokenizer | None,
    *,
    begin: tuple[int, ...],
    end: frozenset[int],
    kind: Kind,
    context: int | None = None,
    reading: Reading | None = None,
) -> Checkpoint:
    return Checkpoint(
        path=path,
        model=model,
        tokenizer=tokenizer,
        begin=begin,
        end=end,
        max_tokens=blueprint.max_tokens,
        vocabulary=blueprint.vocabulary,
        architecture=blueprint.architecture,
        options=dict(blueprint.options),
        shape=Shape(**vars(blueprint.shape)),
        kind=kind,
        context=context,
        reading=reading or Reading(),
    )


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _matches_checksum(path: Path) -> bool:
    try:
        written = path.with_name(path.name + ".sha256").read_text(encoding="utf-8").strip()
        with path.open("rb") as file:
            return written == hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, UnicodeDecodeError):
        return False
