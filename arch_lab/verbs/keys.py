"""``arch-lab keys``: what a study file may say."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from arch_lab.verbs import UsageError, parser

if TYPE_CHECKING:
    from arch_lab.study.keys import Section

EXAMPLES = """examples:
  arch-lab keys training
  arch-lab keys data.tokenizer.kind
  arch-lab keys --experiment glue
  arch-lab keys arms.options --architecture gemma3"""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, EXAMPLES)
    p.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="only this key and what is below it: training, data.tokenizer")
    p.add_argument("--experiment", metavar="NAME", help="only the keys that studies of this experiment have")
    p.add_argument("--architecture", metavar="NAME", help="the options of this architecture, which stand under arms[].options")
    p.add_argument("--json", action="store_true", help="print a list of {title, experiments, keys} and nothing else")
    p.add_argument("--markdown", action="store_true", help="print docs/study_keys.md")
    options = p.parse_args(argv)
    if options.markdown and (options.prefix or options.experiment or options.architecture or options.json):
        raise UsageError("keys: --markdown prints the whole page; give it alone")
    found = _sections(options)
    if options.markdown:
        from arch_lab.study.keys import markdown

        sys.stdout.write(markdown(found))
    elif options.json:
        print(json.dumps([section.to_json() for section in found], indent=2, ensure_ascii=False))
    else:
        _show(found)
    return 0


def _sections(options: Namespace) -> list[Section]:
    from arch_lab.study.experiment import load_experiment
    from arch_lab.study.keys import matching, option_keys, sections

    if options.architecture is not None:
        return matching([option_keys(options.architecture)], options.prefix or "arms.options")
    found = sections()
    if options.experiment is not None:
        load_experiment(options.experiment)  # names the nearest one where there is none
        found = [section for section in found if options.experiment in section.experiments]
    return matching(found, options.prefix) if options.prefix else found


def _show(found: list[Section]) -> None:
    from arch_lab.console import console, table

    out = console()
    for section in found:
        rows = [[key.path, key.type, key.default, key.bounds, key.doc] for key in section.keys]
        out.print(table(["key", "type", "default", "bounds", "meaning"], rows, title=section.title, drop=("bounds", "type")))
