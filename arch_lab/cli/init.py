"""``arch-lab init``: a commented study file."""

from __future__ import annotations

from pathlib import Path

from arch_lab.cli.verbs import UsageError, parser

EXAMPLES = """examples:
  arch-lab init                                   writes my_study.yaml
  arch-lab init speed.yaml --experiment throughput"""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, EXAMPLES)
    p.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default="my_study.yaml",
        help="file to write (default: my_study.yaml)",
    )
    p.add_argument(
        "--experiment",
        metavar="NAME",
        default="perplexity",
        help="what is learned and scored (default: perplexity)",
    )
    p.add_argument("--force", action="store_true", help="replace the file if it exists")
    options = p.parse_args(argv)
    path = Path(options.file)
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"init: a study file ends in .yaml, got {options.file!r}")
    if (path.is_symlink() or path.exists()) and (path.is_dir() or not options.force):
        raise UsageError(
            f"init: {path} exists; choose another "
            f"name{'' if path.is_dir() else ', or replace it with --force'}"
        )
    if not path.parent.is_dir():
        raise UsageError(f"init: there is no folder {str(path.parent)!r}")

    from arch_lab.files import write_text
    from arch_lab.study.template import template

    write_text(path, template(options.experiment))
    print(f"wrote {path}; next: arch-lab plan {path}")
    return 0
