"""Keys of a single run: the nearest one to a wrong one, and the help on one group of them."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from arch_lab.cli.fit_failures import innermost
from arch_lab.cli.fit_options import linked
from arch_lab.cli.verbs import UsageError, nearest
from arch_lab.data.config import FilesConfig, HubConfig, TokenizerConfig

NESTED = {
    "files": FilesConfig,
    "hub": HubConfig,
    "tokenizer": TokenizerConfig,
}  # data keys with keys below them


class Parser(LightningArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(reword(message, known_keys(self))) from None


def known_keys(parser: argparse.ArgumentParser) -> list[str]:
    """Every key a parser takes, in dotted form, those of its subcommands included."""
    keys: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in set(action.choices.values()):
                keys.update(known_keys(sub))
        else:
            keys.update(o[2:] for o in action.option_strings if o.startswith("--"))
    return sorted(keys)


def reword(message: str, keys: Iterable[str]) -> str:
    """jsonargparse's message as one line; the wrong key by its full name, and the nearest right one."""
    message = innermost(message)
    text = " ".join(message.split())
    wrong = wrong_key(text)
    if wrong is None:
        if match := re.match(r'Linked "([\w.]+)" must be given via', text):
            return linked(match[1].rpartition(".")[2])
        if match := re.match(r'Parser key "([\w.]+)": ', text):
            text = f"{match[1]}: {text[match.end() :]}"
        text = re.sub(r"Expected an? <class '(\w+)'>\. Got value: ", r"expected \1, got ", text)
        return text
    return (
        f"unknown key {wrong!r}{nearest_key(wrong, list(keys))} (--model.help, "
        "--data.help and --trainer.help list all)"
    )


def wrong_key(text: str) -> str | None:
    """The key that a parser did not accept, dotted; None when the message is about something else."""
    if match := re.search(r"[Uu]nrecognized arguments: --([\w.+-]+)", text):
        return match[1]
    if match := re.search(r"Group '([\w.]+)' does not accept option '([\w.+-]+)'", text):
        return f"{match[1]}.{match[2]}"
    if match := re.search(r"(?:Subcommand '\w+'|Parser) does not accept option '([\w.+-]+)'", text):
        return match[1]
    return None


def nearest_key(wrong: str, keys: list[str]) -> str:
    """The nearest key of the same group first: ``trainer.max_epoch`` is no misspelt ``model.depth``."""
    group = wrong.rpartition(".")[0]
    return nearest(wrong, [k for k in keys if group and k.rpartition(".")[0] == group]) or nearest(
        wrong, keys
    )


def group_help(parser: argparse.ArgumentParser, group: str) -> str:
    """One line per key of ``group``: name, default, what it means."""
    lines = [f"keys of {group}:"]
    for action in parser._actions:
        name = next((o for o in action.option_strings if o.startswith(f"--{group}.")), None)
        if name and not name.endswith((".help", "+")):
            default = action.default
            if isinstance(default, (dict, Namespace)):
                default = default.get("class_path", default)
            text = " ".join((action.help or "").split()).replace("%%", "%")
            lines.append(f"  {name:<34}{text.split(' Default: ')[0]} (default: {default})")
            if group == "data" and name.removeprefix("--data.") in NESTED:
                lines += nested_help(name, NESTED[name.removeprefix("--data.")])
    return "\n".join(lines)


def nested_help(name: str, config: type[Any]) -> list[str]:
    """The keys below one of ``data``, with their defaults."""
    lines = []
    for field in dataclasses.fields(config):
        default = "required" if field.default is dataclasses.MISSING else f"default: {field.default}"
        lines.append(f"  {f'{name}.{field.name}':<34}({default})")
    return lines
