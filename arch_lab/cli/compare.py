"""``arch-lab compare`` and ``arch-lab plan``: both read a study, one trains it (or times it, where the study is about speed)."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace

from arch_lab.cli.verbs import Parser, UsageError, add_trust, parser

EXAMPLES = {
    "compare": """examples:
  arch-lab compare quickstart
  arch-lab compare my_study.yaml --set budget.params=2e6 --set 'seeds=[0,1,2]'

Finished runs are kept: after an interruption the same command continues where it stopped.

A study file contains: arms (the architectures, with options), budget (what is equal for every arm: params,
train_flops, tokens or seconds), data (source, tokenizer, splits), training (sequence_length, batch_size, …),
learning_rates and seeds. arch-lab list studies shows those that come with the package; arch-lab keys explains every
key, arch-lab init writes a commented file to start from. More: docs/commands.md""",
    "plan": """examples:
  arch-lab plan quickstart
  arch-lab plan quickstart --set budget.params=2e6 --json""",
}


def arguments(verb: str) -> Parser:
    p = parser(verb, EXAMPLES[verb])
    p.add_argument("study", metavar="STUDY", nargs="?", help="name of a study, or path of its YAML file")
    p.add_argument("--list", action="store_true", help="list the studies that exist")
    p.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="change one key of the study: --set budget.params=2e6",
    )
    p.add_argument(
        "--data-root", metavar="DIR", help="folder that the study's relative data paths start from"
    )
    p.add_argument(
        "--threads",
        metavar="N",
        type=threads,
        help="CPU threads of each run (default: 1; for studies of tasks or speed: chosen by torch)",
    )
    p.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")
    add_trust(p)
    if verb == "compare":
        p.add_argument(
            "--output", metavar="DIR", default="runs", help="folder results are written to (default: runs)"
        )
        p.add_argument(
            "--executor",
            metavar="NAME",
            help="where runs are trained: inline (one after the other), processes (several at a time), or auto (the default: "
            "processes on a CPU with more than one core)",
        )
        p.add_argument(
            "--workers",
            metavar="N",
            type=workers,
            help="runs trained at a time (default: as many as cores and memory allow)",
        )
        p.add_argument(
            "--quiet", action="store_true", help="print only the verdict, without progress (for scripts)"
        )
    return p


def threads(text: str) -> int:
    return _positive("--threads", text)


def workers(text: str) -> int:
    return _positive("--workers", text)


def _positive(option: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{option}: expected a whole number of at least 1, got {text!r}")
    return int(text)


def main(verb: str, argv: list[str]) -> int:
    given = arguments(verb).parse_args(argv)
    for override in given.overrides:
        if not override.partition("=")[1] or override.startswith("="):
            raise UsageError(
                f"--set: expected KEY=VALUE, got {override!r}; for example --set budget.params=2e6"
            )
    if given.list:
        return show_studies(as_json=given.json)
    if given.study is None:
        raise UsageError(f"{verb}: which study? (arch-lab {verb} --list shows all)")

    from arch_lab.study.library import find_study

    name, _ = find_study(given.study)  # a misspelt name need not wait for what training imports
    if sys.stderr.isatty() and not (given.json or getattr(given, "quiet", False)):
        print(f"{name}: loading torch and the experiment", file=sys.stderr, flush=True)
    from blocks.registry import trusting

    with trusting(
        given.trust
    ):  # for what the study starts from; modules that the study file names are its user's own
        return run_compare(given) if verb == "compare" else run_plan(given)


def run_compare(given: Namespace) -> int:
    from arch_lab.study import compare

    result = compare(
        given.study,
        overrides=given.overrides,
        output=given.output,
        data_root=given.data_root,
        threads=given.threads,
        quiet=given.quiet or given.json,
        executor=given.executor or default_executor(),
        workers=given.workers,
    )
    if given.json:
        print(json.dumps(result, indent=2))
    elif given.quiet:
        print(result["verdict"]["text"])
    return 0


def default_executor() -> str:
    return os.environ.get("ARCH_LAB_EXECUTOR") or "auto"


def run_plan(given: Namespace) -> int:
    from arch_lab.console import console
    from arch_lab.study import plan, render_plan
    from arch_lab.study.experiment import engine_named

    executor = default_executor()
    result = plan(
        given.study,
        overrides=given.overrides,
        data_root=given.data_root,
        threads=given.threads,
        executor=executor,
    )
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        engine = engine_named(result["experiment"])
        (engine.render_plan if engine else render_plan)(result, console())
    return 0


def show_studies(*, as_json: bool) -> int:
    from arch_lab.console import console, table
    from arch_lab.study.library import list_studies

    studies = list_studies()
    if as_json:
        print(
            json.dumps(
                [{"name": name, "path": str(path), "summary": summary} for name, path, summary in studies],
                indent=2,
            )
        )
    else:
        console().print(table(["study", "what it asks"], [[name, summary] for name, _, summary in studies]))
    return 0
