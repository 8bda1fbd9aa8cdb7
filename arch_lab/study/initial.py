"""Arms that start from a checkpoint: what is taken from it, and what plan, identity and report say of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from arch_lab.checkpoints import Checkpoint, open_checkpoint
from arch_lab.checkpoints.blueprint import check_tensors
from arch_lab.checkpoints.initialise import start_from
from arch_lab.models import recipe
from arch_lab.study.config import Arm, FixedShape, TrainingStudyConfig
from arch_lab.study.plan import InitialWeights, PlannedArm
from blocks.errors import ConfigError, UserError


def with_initial(config: TrainingStudyConfig) -> TrainingStudyConfig:
    """The study with options and shape of its checkpoints filled in.

    Raises: UserError for a path that holds no checkpoint, ConfigError for an arm that contradicts its own.
    """
    if not any(arm.initialise_from for arm in config.arms):
        return config
    tokens = config.training.sequence_length
    return replace(
        config, arms=[_resolved(arm, tokens) if arm.initialise_from else arm for arm in config.arms]
    )


def initial_weights(arm: Arm, model: nn.Module, vocabulary: int) -> InitialWeights | None:
    """The weights that an arm of a plan starts from; None for an arm that starts anew.

    ``model``: the arm's, without memory. Raises: UserError unless the weights fit it, each by name and shape.
    """
    if not arm.initialise_from:
        return None
    opened = _opened_of(arm)
    if opened.vocabulary != vocabulary:
        raise ConfigError(
            f"arm {arm.name!r}: the checkpoint {opened.path} has {opened.vocabulary:,} tokens and the data {vocabulary:,}; take its "
            f"tokenizer: data.tokenizer: {{kind: file, path: {opened.path.absolute()}}}"
        )
    check_tensors(model, opened.model.state_dict(), f"arm {arm.name!r}: {opened.path}")
    return InitialWeights(path=arm.initialise_from, fingerprint=opened.fingerprint)


def initial_warnings(arms: Sequence[PlannedArm]) -> list[str]:
    """That the budget of an arm does not hold what its weights cost before."""
    return [
        f"{arm.name} starts from the checkpoint {arm.initialise_from.path}: the budget counts its training here only"
        for arm in arms
        if arm.initialise_from is not None
    ]


def start(model: nn.Module, initial: InitialWeights | None, data: Any) -> None:
    """Give the model of a trial its initial weights. Raises: UserError when they are no longer those of the plan."""
    if initial is not None:
        start_from(model, initial.path, getattr(data, "tokenizer", None), fingerprint=initial.fingerprint)


def _resolved(arm: Arm, tokens: int) -> Arm:
    opened = _opened_of(arm)
    prefix = f"arm {arm.name!r}: "
    holds = f"contradicts the checkpoint {opened.path}, which has"
    if opened.architecture != arm.architecture:
        raise ConfigError(f"{prefix}architecture {arm.architecture!r} {holds} {opened.architecture!r}")
    if arm.options and recipe(arm.architecture, arm.options) != recipe(opened.architecture, opened.options):
        raise ConfigError(f"{prefix}options {arm.options} {holds} {opened.options}; leave them out")
    shape = FixedShape(**asdict(opened.shape))
    if arm.shape not in (None, shape):
        raise ConfigError(f"{prefix}shape {asdict(arm.shape)} {holds} {asdict(shape)}; leave it out")  # type: ignore[arg-type]
    if tokens > opened.max_tokens:
        raise ConfigError(
            f"{prefix}training.sequence_length {tokens} {holds} at most {opened.max_tokens} tokens"
        )
    return replace(arm, options=dict(opened.options), shape=shape)


def _opened_of(arm: Arm) -> Checkpoint:
    path = Path(arm.initialise_from or "").expanduser()
    modules = {
        value.partition(":")[0] for value in _texts(arm.options) if ":" in value
    }  # named in the study by its user
    try:
        return _opened(path, _stamp(path), tuple(sorted(modules)))
    except UserError as error:
        raise type(error)(f"arm {arm.name!r}: initialise_from: {error}") from None


@lru_cache(maxsize=4)
def _opened(path: Path, stamp: tuple[Any, ...], trust: tuple[str, ...]) -> Checkpoint:
    return open_checkpoint(path, trust)


def _stamp(path: Path) -> tuple[Any, ...]:
    """Changes when a file of the checkpoint does."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
