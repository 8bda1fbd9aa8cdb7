"""The LightningCLI behind ``fit | validate | test | predict``, with errors a person can read.

LightningCLI answers a wrong key with fifty lines of usage and never names the right one. Here every parser error is one
line with the nearest key, a checkpoint is checked before it is used, and ``--model.help`` prints one group of keys.
Importing this module imports lightning (seconds); only ``verbs.fit`` does, when a run really starts.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from arch_lab.checkpoints.opening import checkpoint_file, read_file
from arch_lab.training.certification import Certification
from arch_lab.training.datamodule import TextDataModule
from arch_lab.training.module import LanguageModel
from arch_lab.verbs import UsageError, nearest

GROUPS = ("model", "data", "trainer")
KEYWORDS = ("best", "last", "hpc")  # checkpoints that Lightning finds itself
LINKED = ("vocabulary",)  # model settings that come from the data
LOGGER = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "runs", "name": "fit"}}


def start(verb: str, argv: list[str]) -> LightningCLI:
    """Parse ``argv`` and run ``verb``. Raises: UsageError, one line, for anything wrong with the arguments."""
    trust, argv = trusted(argv)
    for file in config_files(argv):
        check_yaml(Path(file))
    cls = type(
        "CommandLine", (CommandLine,), {"verb": verb, "trust": trust, "group": next((g for g in GROUPS if f"--{g}.help" in argv), None)}
    )
    return cls(
        LanguageModel,
        TextDataModule,
        args=[verb, *argv],
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={
            "logger": LOGGER,
            "enable_model_summary": False,
            "max_steps": 1000,  # Lightning's own end is epoch 1000
            "callbacks": [Certification(partial(print, file=sys.stderr))],
        },
    )


class Parser(LightningArgumentParser):
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(reword(message, known_keys(self))) from None


class CommandLine(LightningCLI):
    verb: str
    group: str | None
    trust: list[str]  # modules that the checkpoint's options may name

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        parser = Parser(**options)
        parser.allow_abbrev = False  # else a misspelt `max_epoch` is taken for `max_epochs` without a word
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with any of the keys; of two, the later wins")
        return parser

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        return {self.verb: LightningCLI.subcommands()[self.verb]}  # parsers of the other verbs would be built for nothing

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # a model has as many rows as its tokenizer has tokens: two settings that must agree are one setting
        parser.link_arguments("data", "model.vocabulary", compute_fn=_vocabulary, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if self.group:
            print(group_help(self._parser(self.verb), self.group))
            raise SystemExit(0)
        super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """The model's shape comes from its checkpoint; Lightning's own version trips over linked settings."""
        path = self.config[self.verb].get("ckpt_path")
        if not path or path in KEYWORDS or path.startswith("registry"):
            return
        file, _ = checkpoint_file(path, self.trust)
        given = {"model": checkpoint_settings(file), "ckpt_path": str(file)}
        self.config = self.parser.parse_object({self.verb: given}, self.config)

    def after_fit(self) -> None:
        scores = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        folder = self.trainer.log_dir or self.trainer.default_root_dir
        print("".join(f"{name}: {value:.4f}\n" for name, value in sorted(scores.items())) + f"results: {folder}")

    def predict(self, **arguments: Any) -> None:
        """Keeps what Trainer.predict returns, which LightningCLI drops."""
        batches = self.trainer.predict(**arguments)
        folder = Path(self.trainer.log_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(batches, folder / "predictions.pt")
        print(folder / "predictions.pt")


def _vocabulary(data: TextDataModule) -> int:
    return data.vocabulary


def checkpoint_settings(file: Path) -> dict[str, Any]:
    """Settings of the model inside a checkpoint file, without those that come from the data."""
    settings = read_file(file)["hyper_parameters"]
    return {key: value for key, value in settings.items() if not key.startswith("_") and key not in LINKED}


def trusted(argv: list[str]) -> tuple[list[str], list[str]]:
    """The modules of ``--trust MODULE``, and the other arguments. Raises: UsageError for one without a module."""
    modules, rest, words = [], [], iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--trust":
            rest.append(word)
            continue
        module = value if equals else next(words, "")
        if not module or module.startswith("-"):
            raise UsageError("--trust: expected the name of a module, for example --trust my_module")
        modules.append(module)
    return modules, rest


def config_files(argv: list[str]) -> list[str]:
    """What follows ``--config`` (or -c), however it is written; text that is YAML itself is left to the parser."""
    pairs = zip(argv, [*argv[1:], ""], strict=True)
    found = [value for option, value in pairs if option in ("-c", "--config")]
    found += [a.partition("=")[2] for a in argv if a.startswith("--config=")]
    return [f for f in found if "\n" not in f and ": " not in f]


def check_yaml(file: Path) -> None:
    """Raises: UsageError with file and line; jsonargparse calls every file "<unicode string>"."""
    if not file.is_file():
        near = nearest(file.stem, [f.stem for f in file.parent.glob("*.yaml")]) if file.parent.is_dir() else ""
        raise UsageError(f"--config: {file}: no such file{near}")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"--config: {file}: not UTF-8 text (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        where = f" line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}" if error.problem_mark else ""
        raise UsageError(f"--config: {file}{where}: not valid YAML ({error.problem})") from None
    except yaml.YAMLError as error:
        raise UsageError(f"--config: {file}: not valid YAML ({error})") from None
    if not isinstance(found, dict):
        raise UsageError(f"--config: {file}: expected keys such as model, data, trainer; found {type(found).__name__}")
    model = found.get("model")
    for name in LINKED:
        if isinstance(model, dict) and name in model:  # the parser would drop it without a word
            raise UsageError(f"--config: {file}: {linked(name)}")


def linked(name: str) -> str:
    return f"model.{name} follows from the data and its tokenizer; leave it out (data.{name} sizes a trained tokenizer)"


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
    text = " ".join(message.split())
    wrong = wrong_key(text)
    if wrong is None:
        if found := re.match(r'Linked "([\w.]+)" must be given via', text):
            return linked(found[1].rpartition(".")[2])
        if found := re.match(r'Parser key "([\w.]+)": ', text):
            text = f"{found[1]}: {text[found.end() :]}"
        text = re.sub(r"Expected an? <class '(\w+)'>\. Got value: ", r"expected \1, got ", text)
        return text
    return f"unknown key {wrong!r}{nearest_key(wrong, list(keys))} (--model.help, --data.help and --trainer.help list all)"


def wrong_key(text: str) -> str | None:
    """The key that a parser did not accept, dotted; None when the message is about something else."""
    if found := re.search(r"[Uu]nrecognized arguments: --([\w.+-]+)", text):
        return found[1]
    if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.+-]+)'", text):
        return f"{found[1]}.{found[2]}"
    if found := re.search(r"(?:Subcommand '\w+'|Parser) does not accept option '([\w.+-]+)'", text):
        return found[1]
    return None


def nearest_key(wrong: str, keys: list[str]) -> str:
    """The nearest key of the same group first: ``trainer.max_epoch`` is no misspelt ``model.depth``."""
    group = wrong.rpartition(".")[0]
    return nearest(wrong, [k for k in keys if group and k.rpartition(".")[0] == group]) or nearest(wrong, keys)


def group_help(parser: argparse.ArgumentParser, group: str) -> str:
    """One line a key of ``group``: name, default, what it means."""
    lines = [f"keys of {group}:"]
    for action in parser._actions:
        name = next((o for o in action.option_strings if o.startswith(f"--{group}.")), None)
        if name and not name.endswith((".help", "+")):
            default = action.default
            if isinstance(default, (dict, Namespace)):
                default = default.get("class_path", default)
            text = " ".join((action.help or "").split()).replace("%%", "%")
            lines.append(f"  {name:<34}{text.split(' Default: ')[0]} (default: {default})")
    return "\n".join(lines)
