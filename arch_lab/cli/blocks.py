"""``arch-lab blocks``: what the registry holds, installed packages' blocks included."""

from __future__ import annotations

import json

from arch_lab.cli.verbs import parser


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, "Blocks of installed packages (entry-point group arch_lab.blocks) are listed too.")
    p.add_argument(
        "--kind", metavar="KIND", help="only this kind: sequence_mixer, cross_mixer, channel_mixer, linear, …"
    )
    p.add_argument(
        "--json",
        action="store_true",
        help="print a list of {name, kind, causal, source, complexity, summary}",
    )
    given = p.parse_args(argv)

    from blocks.errors import ConfigError, did_you_mean
    from blocks.index import KINDS

    if given.kind is not None and given.kind not in KINDS:
        raise ConfigError(f"--kind: unknown kind {given.kind!r}{did_you_mean(given.kind, KINDS)}")

    from blocks.registry import entries

    found = entries(given.kind)
    if given.json:
        keys = ("name", "kind", "causal", "source", "complexity", "summary")
        print(
            json.dumps(
                [{key: getattr(entry, key) for key in keys} for entry in found], indent=2, ensure_ascii=False
            )
        )
        return 0

    from arch_lab.console import console
    from arch_lab.report.section import Table

    rows = [[e.name, e.kind, "yes" if e.causal else "no", e.complexity, e.source] for e in found]
    heads, drop = ["block", "kind", "causal", "cost", "source"], ("source", "causal", "cost")
    console().print(Table(headers=heads, rows=rows, text_columns=range(5), drop=drop))
    return 0
