"""The arguments of ``fit | validate | test | predict`` before LightningCLI sees them.

Configuration files are read strictly, the keys that data options had before they were those of a study are
renamed, and ``--ckpt_path`` is taken out: it wins wherever it stands. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from arch_lab.cli.verbs import UsageError, nearest
from blocks.config import Options

LINKED = ("vocabulary",)  # model settings that come from the data
SCORING = ("validate", "test", "predict")
KEYWORDS = ("best", "last", "hpc")  # checkpoints that Lightning finds itself, while it trains
RENAMED = {
    "train": "files.train",
    "validation": "files.validation",
    "hub_name": "hub.name",
    "vocabulary": "tokenizer.vocabulary",
    "tokenizer_path": "tokenizer.path",
}
OLD_VOCABULARY = 1024  # the default that every saved configuration held, also where bytes ignored it


@dataclass
class Command:
    """One call: ``arguments`` for LightningCLI, and what is not its business."""

    verb: str
    original: list[str]
    arguments: list[str] = field(default_factory=list)
    checkpoint: str | None = None
    experiment: str = "perplexity"  # whose Lightning module is trained
    trust: list[str] = field(default_factory=list)  # modules that the checkpoint's options may name
    json: bool = False
    notes: list[str] = field(default_factory=list)  # lines for the user


def read_command(verb: str, argv: list[str]) -> Command:
    """Raises: UsageError, one line, for a file that cannot be read and for a scoring verb without a
    checkpoint.
    """
    command = Command(verb, list(argv))
    file_checkpoint = None
    for option, value in pairs(argv):
        if option in ("-c", "--config"):
            content = read_config(value or "")
            file_checkpoint = content.pop("ckpt_path", None) or file_checkpoint
            rename_keys(content, command)
            command.arguments.append("--config=" + yaml.safe_dump(content, sort_keys=False))
        elif option == "--ckpt_path":
            command.checkpoint = value
        elif option == "--trust":
            if not value:
                raise UsageError("--trust: expected the name of a module, for example --trust my_module")
            command.trust.append(value)
        elif option == "--experiment":
            if not value:
                raise UsageError("--experiment: expected a name, for example --experiment perplexity")
            command.experiment = value
        elif option == "--json":
            command.json = True
        else:
            command.arguments += renamed_option(option, value, command)
    command.checkpoint = command.checkpoint or file_checkpoint
    if verb in SCORING and (not command.checkpoint or command.checkpoint in KEYWORDS):
        wrong = (
            f"{command.checkpoint!r} names no file"
            if command.checkpoint
            else "an untrained model has nothing to score"
        )
        raise UsageError(
            f"{verb}: give --ckpt_path FILE ({wrong}); arch-lab fit writes one under "
            "runs/fit/version_N/checkpoints"
        )
    if command.checkpoint and names_no_file(
        command.checkpoint
    ):  # else the file that it is or holds is found first
        command.arguments += ["--ckpt_path", command.checkpoint]
    return command


def names_no_file(checkpoint: str) -> bool:
    """Whether Lightning finds the checkpoint itself."""
    return checkpoint in KEYWORDS or checkpoint.startswith("registry")


def pairs(argv: list[str]) -> Iterator[tuple[str, str | None]]:
    """(option, value) of each argument; None for a flag or a positional argument."""
    i = 0
    while i < len(argv):
        option, equals, value = argv[i].partition("=")
        follows = i + 1 < len(argv) and not argv[i + 1].startswith("--")
        if not option.startswith("-"):
            yield argv[i], None
        elif equals:
            yield option, value
        elif option == "--json" or not follows:
            yield option, None
        else:
            i += 1
            yield option, argv[i]
        i += 1


def read_config(text: str) -> Options:
    """The mapping in a configuration file, or in YAML given in its place.

    Raises: UserError, UsageError with file and line.
    """
    from arch_lab.yaml_files import load_yaml, parse_yaml  # reaches torch

    inline = "\n" in text or ": " in text or text.startswith("{")
    file = Path(text)
    if not inline and not file.is_file():
        suggestion = (
            nearest(file.stem, [f.stem for f in file.parent.glob("*.yaml")])
            if text and file.parent.is_dir()
            else ""
        )
        raise UsageError(f"--config: {text or 'needs a file'}: no such file{suggestion}")
    origin = "--config" if inline else f"--config: {file}"
    content = parse_yaml(text, origin=origin) if inline else load_yaml(file)
    if not isinstance(content, dict):
        raise UsageError(
            f"{origin}: expected keys such as model, data, trainer; got {type(content).__name__}"
        )
    match content:
        case {"model": dict() as model}:
            for name in set(LINKED) & set(model):  # the parser would drop it without a word
                raise UsageError(f"{origin}: {linked(name)}")
    return content


def linked(name: str) -> str:
    return (
        f"model.{name} follows from the data and its tokenizer; leave it out (data.tokenizer.{name} sizes a "
        "trained tokenizer)"
    )


def rename_keys(content: Options, command: Command) -> None:
    """Rename the ``data`` keys of a configuration to those of a study, in place."""
    match content:
        case {"data": dict() as data}:
            _rename_data_keys(data, command)


def _rename_data_keys(data: Options, command: Command) -> None:
    match data:
        case {"tokenizer": str() as kind}:
            data.update(tokenizer={"kind": kind})
            command.notes.append(f"note: data.tokenizer: {kind} is now data.tokenizer.kind: {kind}")
            if kind != "bpe" and data.get("vocabulary") == OLD_VOCABULARY:
                del data["vocabulary"]
    for old, new in RENAMED.items():
        value = data.pop(old, None)
        if value is None:
            continue
        group, _, key = new.partition(".")
        data[group] = {**(data.get(group) or {}), key: value}
        command.notes.append(f"note: data.{old} is now data.{new}")


def renamed_option(option: str, value: str | None, command: Command) -> list[str]:
    """The option as LightningCLI is to read it; an old data key under its new name."""
    key = option.removeprefix("--data.") if option.startswith("--data.") else ""
    new = RENAMED.get(key)
    if key == "tokenizer" and value is not None and not value.startswith("{"):
        new = "tokenizer.kind"
    if new is None:
        return (
            [option]
            if value is None
            else [f"{option}={value}"]
            if option.startswith("--")
            else [option, value]
        )
    command.notes.append(f"note: {option} is now --data.{new}")
    return [f"--data.{new}"] if value is None else [f"--data.{new}={value}"]
