"""Loggers of a study: Lightning's classes, or the user's own, opened anew for every trial.

They record what TensorBoard gets and determine no number: they are no part of a run's identity, and a study
that has
finished accepts others. Folder and names that the study file does not give are those of the trial.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

from arch_lab import files
from blocks.config import Config, Doc, Length, Pattern
from blocks.errors import ConfigError, UserError, did_you_mean, shown
from blocks.registry import import_object
from blocks.user_code import describe

if TYPE_CHECKING:  # seconds to import, and most studies name no logger
    from lightning.fabric.loggers import Logger

LIGHTNING = "lightning.pytorch.loggers"
FOLDER = "loggers"  # in the folder of the study
FOLDERS = ("save_dir", "root_dir")  # arguments that take it
INERT = ("CSVLogger", "TensorBoardLogger", "WandbLogger", "MLFlowLogger")  # constructors start no run


@dataclass(frozen=True, kw_only=True)
class LoggerConfig(Config):
    """One entry of ``loggers``, as Lightning's command line writes it."""

    class_path: Annotated[
        str,
        Length(1, 1000),
        Pattern(r"[^\W\d]\w*(\.[^\W\d]\w*)*", "an import path package.module.Class"),
        Doc(
            "Class of the logger; a name without dots is a logger of Lightning. "
            "May be written instead of the mapping."
        ),
    ]
    init_args: Annotated[
        dict[str, Any],
        Doc("Arguments of its constructor; defaults for folder, run and project come from the run."),
    ] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialNames:
    """What a logger is told of its trial. ``trial``: arm and run, such as gemma3/lr-0.004_seed-0."""

    folder: Path  # of the study
    study: str
    trial: str


EXAMPLE = TrialNames(Path("runs/study"), "study", "arm/run")  # to check arguments by


def entries(value: Any) -> Any:
    """The value of the key with each bare class path as a mapping; what is no list is left as it is."""
    if not isinstance(value, list):
        return value
    return [{"class_path": entry} if isinstance(entry, str) else entry for entry in value]


def check_loggers(configs: Sequence[LoggerConfig], where: str) -> None:
    """Import every class and check its arguments. Raises: ConfigError that names the entry."""
    written: dict[tuple[Any, ...], str] = {}
    for name, config in entry_names(configs, where):
        cls = logger_class(config, name)
        arguments = _arguments(config, cls, EXAMPLE, name)
        if _is_csv(cls):
            _check_file(config, arguments, written, name)


def try_loggers(configs: Sequence[LoggerConfig], folder: Path, study: str, where: str) -> None:
    """Construct the loggers of Lightning's that then start no run: one whose package is missing is refused at
    once.

    Raises: ConfigError that names the entry.
    """
    for name, config in entry_names(configs, where):
        cls = logger_class(config, name)
        if cls.__module__.startswith(f"{LIGHTNING}.") and cls.__name__ in INERT:
            try:
                build(config, TrialNames(folder, study, EXAMPLE.trial), name)
            except UserError:
                raise
            except Exception as error:
                raise ConfigError(f"{name}: {cannot_start(config, error)}") from error


def entry_names(configs: Sequence[LoggerConfig], where: str) -> Iterator[tuple[str, LoggerConfig]]:
    """Each entry with its name in messages."""
    return ((f"{where}[{index}]", config) for index, config in enumerate(configs))


def logger_class(config: LoggerConfig, where: str) -> type[Logger]:
    """The class of an entry. Raises: ConfigError for one that does not exist or is no logger."""
    from lightning.fabric.loggers import Logger  # the base of every logger of Lightning's

    path = config.class_path if "." in config.class_path else f"{LIGHTNING}.{config.class_path}"
    module, _, name = path.rpartition(".")
    try:
        cls = import_object(f"{module}:{name}")
    except ConfigError as error:
        raise ConfigError(f"{where}.class_path: {str(error).replace(f'{module}:{name}', path)}") from error
    if not isinstance(cls, type) or not issubclass(cls, Logger):
        other = path.replace("pytorch_lightning.", "lightning.pytorch.", 1)
        hint = f"; did you mean {other}?" if other != path else f": derive it from {LIGHTNING}.Logger"
        raise ConfigError(f"{where}.class_path: {path} is not a logger{hint}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise ConfigError(f"{where}.class_path: {path} is abstract: it lacks {missing}")
    return cls


def build(config: LoggerConfig, names: TrialNames, where: str) -> Logger:
    """The logger of one trial.

    Raises: ConfigError; OutputError for a link out of the study; what the constructor raises.
    """
    cls = logger_class(config, where)
    arguments = _arguments(config, cls, names, where)
    if not any(key in config.init_args for key in FOLDERS):
        files.inside(names.folder, names.folder / FOLDER / names.trial)
        (names.folder / FOLDER).mkdir(parents=True, exist_ok=True)  # W&B and SQLite make none
    return cls(**arguments)


def cannot_start(config: LoggerConfig, error: BaseException) -> str:
    """Why a logger does not start and what to do, in one line without its place in the study."""
    name = config.class_path.rpartition(".")[2]
    return f"{name} cannot start: {describe(error)}; fix that, or remove it from loggers"


def _arguments(config: LoggerConfig, cls: type[Logger], names: TrialNames, where: str) -> dict[str, Any]:
    """What the constructor is called with, types checked. Raises: ConfigError that names the argument."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, fail_untyped=False)
    accepted = parser.get_defaults().as_dict()
    options = config.init_args
    extra = {key: value for key, value in options.items() if key not in accepted}
    if extra and not _takes_any(cls):
        key = next(iter(extra))
        raise ConfigError(
            f"{where}.init_args: {cls.__name__} has no argument {shown(key)}{did_you_mean(key, accepted)}"
        )
    _check_names(options, where)
    defaults = _defaults(cls, names, options)
    filled = {key: value for key, value in defaults.items() if key in accepted and key not in options}
    if accepted.get("tracking_uri"):  # from the variable MLFLOW_TRACKING_URI
        filled.pop("tracking_uri", None)
    if "group" not in options and _is_wandb(cls):
        extra |= {"group": names.study}
    try:
        parsed = parser.parse_object(
            {**filled, **{key: value for key, value in options.items() if key in accepted}}
        )
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}.init_args: {_problem(cls, options, error)}") from None
    values: dict[str, Any] = parser.instantiate(parsed).as_dict()
    return {**values, **extra}


def _defaults(cls: type[Logger], names: TrialNames, options: Mapping[str, Any]) -> dict[str, str]:
    folder = os.path.abspath(names.folder / FOLDER)  # a process of a logger's own may stand in another folder
    defaults = dict.fromkeys(FOLDERS, folder)
    defaults |= {"name": names.trial, "run_name": names.trial}
    defaults |= dict.fromkeys(("experiment_name", "project", "group"), names.study)
    if _is_csv(cls):  # it replaces the file in its folder: no attempt that was cut short stays beside it
        defaults |= {"version": names.trial if "name" in options else ""}
    if "save_dir" not in options:  # MLflow 3 refuses a store of plain files
        defaults |= {"tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    return defaults


def _check_names(options: Mapping[str, Any], where: str) -> None:
    """Raises: ConfigError for a name that leaves the study's folder although no other folder was asked for."""
    if any(key in options for key in FOLDERS):
        return
    for key in ("name", "version", "sub_dir"):
        path = PurePath(str(options.get(key) or ""))
        if path.is_absolute() or ".." in path.parts:
            raise ConfigError(
                f"{where}.init_args.{key}: {shown(options[key])} leads out of the study's folder; "
                "give save_dir to write elsewhere"
            )


def _check_file(
    config: LoggerConfig, arguments: Mapping[str, Any], written: dict[tuple[Any, ...], str], where: str
) -> None:
    """Raises: ConfigError when two trials, or two entries, would write one CSV file."""
    if {"name", "version"} <= set(config.init_args):
        raise ConfigError(
            f"{where}.init_args: with both name and version, every trial replaces the file of the one before; "
            "leave one out"
        )
    file = tuple(arguments.get(key) for key in ("save_dir", "name", "version"))
    if file in written:
        raise ConfigError(
            f"{where}: writes the same file as {written[file]}; give one of them another save_dir or name"
        )
    written[file] = where


def _problem(cls: type[Logger], options: Mapping[str, Any], error: Exception) -> str:
    """jsonargparse's message about one argument, in one line."""
    text = " ".join(str(error).split())
    key = next((key for key in options if text.startswith(f'Parser key "{key}"')), None)
    parameter = inspect.signature(cls).parameters.get(key or "")
    if key is None or parameter is None:
        return f"{cls.__name__}: {text[:300]}"
    kind = inspect.formatannotation(parameter.annotation).replace("typing.", "")
    return f"{cls.__name__}: {key}: expected {kind}, got {shown(options[key])}"


def _takes_any(cls: type[Logger]) -> bool:
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(cls).parameters.values())


def _is_csv(cls: type[Logger]) -> bool:
    from lightning.pytorch.loggers import CSVLogger

    return issubclass(cls, CSVLogger)


def _is_wandb(cls: type[Logger]) -> bool:
    """Whether what the constructor does not know goes on to ``wandb.init``."""
    from lightning.pytorch.loggers import WandbLogger

    return issubclass(cls, WandbLogger) and _takes_any(cls)
