"""The verbs of the command line: their table, and the parser the plain ones share.

A verb module offers ``main(verb, arguments) -> int | None`` and imports nothing heavy at its top.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True)
class Verb:
    module: str  # below arch_lab.cli
    help: str


VERBS = {
    "compare": Verb("compare", "train the architectures of a study at one budget and judge them"),
    "plan": Verb("compare", "show what a study would train: shapes, parameters, FLOPs, steps; train nothing"),
    "keys": Verb("keys", "list the keys of a study file with type, default, bounds and meaning"),
    "init": Verb("init", "write a commented study file to start from"),
    "report": Verb("report", "rewrite the HTML report of a finished study"),
    "forecast": Verb(
        "forecast", "write down what a study's laws say at larger budgets, before they are trained"
    ),
    "list": Verb("listing", "list the studies that exist, and run folders with their state"),
    "show": Verb("show", "show one run folder, finished or not, or several side by side"),
    "cost": Verb("cost", "count parameters, FLOPs and decoding state of a model, part by part"),
    "blocks": Verb("blocks", "list the registered blocks"),
    "certify": Verb(
        "certify", "test a block against the seven laws (causality, decoding, isolation, accounting, …)"
    ),
    "bench": Verb("bench", "time the blocks against other implementations"),
    "fit": Verb("fit", "train one model"),
    "validate": Verb("fit", "score one model on the tuning split"),
    "test": Verb("fit", "score one model on the validation split"),
    "predict": Verb("fit", "run one model and save its outputs"),
    "generate": Verb("generate", "continue a text with a trained model, and time it"),
    "score": Verb("score", "score any checkpoint on any text: bits per byte and perplexity"),
    "convert": Verb(
        "convert", "convert a Hugging Face checkpoint of Gemma into the format of arch-lab, or back"
    ),
    "completion": Verb("completion", "print a shell script for tab completion of verbs, options and studies"),
    "env": Verb("env", "print versions, processor and memory, to attach to a bug report"),
}


class UsageError(Exception):
    """A command typed wrongly; the message is one line.

    Apart from blocks.errors, whose import costs torch's.
    """

    exit_code = 2


def nearest(name: str, choices: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or nothing when no choice is near."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line: what is wrong and the nearest valid option, without the usage
    block.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog.removeprefix('arch-lab ')}: {message} ({self.prog} --help shows all)")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        parsed, extra = self.parse_known_args(args, namespace)
        if extra:
            wrong = next((e for e in extra if e.startswith("-")), extra[0]).split("=")[0]
            if not wrong.startswith("-"):
                self.error(f"unexpected argument {wrong!r}")
            options = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
            self.error(f"unknown option {wrong!r}{nearest(wrong, options)}")
        return parsed


def parser(verb: str, description: str = "", **options: Any) -> Parser:
    """The parser of one verb, with ``--help`` text from the table and ``description``."""
    text = VERBS[verb].help[:1].upper() + VERBS[verb].help[1:] + "."
    formatter = argparse.RawDescriptionHelpFormatter
    return Parser(
        prog=f"arch-lab {verb}",
        description="\n\n".join(filter(None, [text, description])),
        formatter_class=formatter,
        **options,
    )


def add_trust(p: argparse.ArgumentParser) -> None:
    """``--trust MODULE``, of the verbs that open a checkpoint."""
    p.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help=(
            "your module that defines blocks of the checkpoint; only modules named here are imported (may "
            "be repeated)"
        ),
    )
