"""``arch-lab keys``: the keys of a study file."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

from arch_lab.cli.verbs import UsageError, nearest, parser
from arch_lab.key_table import KeyTable, Section, markdown, matching, simple
from blocks.errors import ConfigError, did_you_mean

EXAMPLES = """examples:
  arch-lab keys training
  arch-lab keys data.tokenizer.kind
  arch-lab keys --experiment glue
  arch-lab keys arms.options --architecture gemma3"""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, EXAMPLES)
    p.add_argument(
        "prefix",
        metavar="PREFIX",
        nargs="?",
        default="",
        help="only this key and what is below it: training, data.tokenizer",
    )
    p.add_argument("--experiment", metavar="NAME", help="only the keys that studies of this experiment have")
    p.add_argument(
        "--architecture",
        metavar="NAME",
        help="the options of this architecture, which go under arms[].options",
    )
    p.add_argument(
        "--json", action="store_true", help="print a list of {title, experiments, keys} and nothing else"
    )
    p.add_argument("--markdown", action="store_true", help="print docs/study_keys.md")
    options = p.parse_args(argv)
    if options.markdown and (options.prefix or options.experiment or options.architecture or options.json):
        raise UsageError("keys: --markdown prints the whole page; give it alone")

    from arch_lab.study.template import read_table, with_plug_ins

    table = read_table()
    if options.markdown:
        sys.stdout.write(markdown(table.studies, table.architectures))
        return 0
    sections = _sections(with_plug_ins(table, options.experiment), options)
    if options.json:
        print(json.dumps([section.to_json() for section in sections], indent=2, ensure_ascii=False))
    else:
        _show(sections)
    return 0


def _sections(table: KeyTable, options: Namespace) -> list[Section]:
    sections = list(table.studies)
    if options.architecture is not None:
        architectures = table.architectures
        if options.architecture not in architectures:
            raise ConfigError(
                "unknown architecture "
                f"{options.architecture!r}{did_you_mean(options.architecture, architectures)}"
            )
        sections, options.prefix = [architectures[options.architecture]], options.prefix or "arms.options"
    elif options.experiment is not None:
        if options.experiment not in table.experiments:
            raise ConfigError(
                "unknown experiment "
                f"{options.experiment!r}{did_you_mean(options.experiment, table.experiments)}"
            )
        sections = [section for section in sections if options.experiment in section.experiments]
    matches = matching(sections, options.prefix)
    if not matches:
        known_keys = {simple(key.path) for section in sections for key in section.keys}
        hint = nearest(simple(options.prefix), known_keys) or " (arch-lab keys shows all)"
        raise ConfigError(f"no study key {options.prefix!r}{hint}")
    return matches


def _show(sections: list[Section]) -> None:
    from arch_lab.console import console
    from arch_lab.report.section import Table

    out = console()
    for section in sections:
        rows = [[key.path, key.type, key.default, key.bounds, key.doc] for key in section.keys]
        heads = ["key", "type", "default", "bounds", "meaning"]
        text = range(len(heads))
        out.print(
            Table(title=section.title, headers=heads, rows=rows, text_columns=text, drop=("bounds", "type"))
        )
