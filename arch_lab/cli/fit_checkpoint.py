"""Settings in a checkpoint file: model, data, precision, tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from packaging.version import InvalidVersion, Version

from arch_lab.checkpoints.ckpt_file import read_file, tokenizer_of
from arch_lab.checkpoints.opening import checkpoint_file
from arch_lab.cli.fit_options import LINKED, names_no_file
from arch_lab.cli.verbs import UsageError
from arch_lab.data import PreparedData
from arch_lab.training.module import RUN
from arch_lab.training.saving import State
from arch_lab.yaml_files import load_json, load_yaml
from blocks.config import Options

START = "initialise_from"  # of no use to a model whose weights a checkpoint holds


@dataclass(frozen=True)
class SavedRun:
    """Settings of a checkpoint. ``data`` is empty where it does not say on what it was trained."""

    path: str
    model: Options
    vocabulary: int | None
    data: Options = field(default_factory=dict)
    precision: str | None = None
    fingerprint: str | None = None
    tokenizer: str | None = None

    def check_data(self, data: PreparedData) -> None:
        """Raises: UsageError when these tokens are not the ones the model was trained on."""
        other = self.tokenizer is not None and self.tokenizer != data.tokenizer.fingerprint
        if other or self.vocabulary not in (None, data.vocabulary):
            raise UsageError(
                f"--ckpt_path: {self.path}: the model was trained with another tokenizer ({self.vocabulary} "
                f"tokens; this data has {data.tokenizer.kind}, {data.vocabulary}); "
                "give the data options it was trained with"
            )


def read_checkpoint(
    path: str, data_class: type, trust: Sequence[str] = (), *, resume: bool = False
) -> SavedRun | None:
    """Of the file that ``path`` is or holds; None for a name that Lightning resolves itself.

    ``data_class``: the data module whose settings it should hold; ``resume``: whether a training is to go on
    from it.
    Raises: UserError when it is no checkpoint of a training, or names a module that ``trust`` does not.
    """
    if names_no_file(path):
        return None
    file, _ = checkpoint_file(path, trust)
    content = read_file(file)
    _check_lightning(content, file, resume)
    settings = content["hyper_parameters"]
    tokenizer = tokenizer_of(content, str(file))
    return SavedRun(
        path=str(file),
        model={
            key: value
            for key, value in settings.items()
            if not key.startswith("_") and key not in (*LINKED, START)
        },
        vocabulary=settings.get("vocabulary"),
        tokenizer=tokenizer.fingerprint if tokenizer else None,
        **(_run_settings(content[RUN], file, data_class) if RUN in content else _study_run(file)),
    )


def _check_lightning(content: State, file: Path, resume: bool) -> None:
    """Raises: UsageError when Lightning could not read this content, or not train on from it."""
    try:
        Version(content["pytorch-lightning_version"])
    except (KeyError, TypeError, InvalidVersion):
        raise UsageError(
            f"--ckpt_path: {file}: Lightning did not write this file, or it is damaged; "
            f"arch-lab score {file} --text FILES scores a model"
        ) from None
    if resume and not content.get("optimizer_states"):
        raise UsageError(
            f"--ckpt_path: {file} holds weights and no state of an optimizer, "
            "so its training cannot continue; start a new one "
            f"from its weights with --model.initialise_from {file}"
        )


def _run_settings(run: Any, file: Path, data_class: type) -> Options:
    """``data``, ``fingerprint`` and ``precision`` of a checkpoint of fit.

    Raises: UsageError when it holds anything else.
    """
    parameters = set(inspect.signature(data_class).parameters)
    match run:
        case {"data": dict() as data, "fingerprint": str() as fingerprint, "precision": str() as precision}:
            if {"source"} <= set(data) <= parameters:
                return {"data": data, "fingerprint": fingerprint, "precision": precision}
    raise UsageError(
        f"--ckpt_path: {file}: its data settings cannot be read, so the file is damaged; "
        "use another checkpoint"
    )


def _study_run(file: Path) -> Options:
    """The same settings of a study's run, from the files next to its model."""
    run, study = file.parent / "config.json", file.parent / "../../../study.yaml"
    if not (run.is_file() and study.is_file()):
        return {}
    try:
        identity, data = load_json(run), load_yaml(study)["data"]
        training = identity["training"]
        sizes = {name: training[name] for name in ("sequence_length", "batch_size")}
        return {
            "data": {**data, **sizes, "seed": identity["seed"]},
            "precision": training["precision"],
            "fingerprint": identity["data"],
        }
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"--ckpt_path: {run} and {study} do not record the training data ({error}); give --data options"
        ) from None


def same(a: Any, b: Any) -> bool:
    """Equal as plain values; an absent key and null are the same, in mappings too."""
    return plain(a) == plain(b)


def plain(value: Any) -> Any:
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items() if v is not None} or None
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value
