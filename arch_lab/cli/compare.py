"""``arch-lab compare`` and ``arch-lab plan``: both read a study, one trains it (or times it, where the study is about speed)."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace

from arch_lab.cli.verbs import Parser, UsageError, add_trust, parser
from arch_lab.memory import keep_memory

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
        help="CPU threads of each run (default: 1; for studies of speed: chosen by torch)",
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
    options = arguments(verb).parse_args(argv)
    for override in options.overrides:
        if not override.partition("=")[1] or override.startswith("="):
            raise UsageError(
                f"--set: expected KEY=VALUE, got {override!r}; for example --set budget.params=2e6"
            )
    if options.list:
        return show_studies(as_json=options.json)
    if options.study is None:
        raise UsageError(f"{verb}: which study? (arch-lab {verb} --list shows all)")

    name = read_name(options)
    if sys.stderr.isatty() and not (options.json or getattr(options, "quiet", False)):
        print(f"{name}: loading torch and the experiment", file=sys.stderr, flush=True)
    from blocks.registry import trusting

    with trusting(
        options.trust
    ):  # for what the study starts from; modules that the study file names are its user's own
        return run_compare(options) if verb == "compare" else run_plan(options)


def read_name(options: Namespace) -> str:
    """Name of the study, whose file is read here because an error in it need not wait for torch.

    Raises: ConfigError for a study or an experiment that does not exist, for YAML that cannot be read, and for a wrong ``--set``.
    """
    from arch_lab.study.library import find_study
    from arch_lab.study.registry import find_experiment
    from arch_lab.study.study_file import read_study

    name, path = find_study(options.study)
    experiment = read_study(path, name=name, overrides=options.overrides).get("experiment")
    if isinstance(experiment, str):
        find_experiment(experiment)
    return name


def run_compare(options: Namespace) -> int:
    keep_memory()  # before torch is imported
    from arch_lab.cli.workflow import compare

    result = compare(
        options.study,
        overrides=options.overrides,
        output=options.output,
        data_root=options.data_root,
        threads=options.threads,
        quiet=options.quiet or options.json,
        executor=options.executor or default_executor(),
        workers=options.workers,
    )
    if options.json:
        print(json.dumps(result.to_json(), indent=2))
    elif options.quiet:
        print(result.verdict.text)
    return 0


def default_executor() -> str:
    return os.environ.get("ARCH_LAB_EXECUTOR") or "auto"


def run_plan(options: Namespace) -> int:
    from arch_lab.console import console
    from arch_lab.report import render_plan
    from arch_lab.study.engine import plan_and_workers

    plan, workers = plan_and_workers(
        options.study,
        overrides=options.overrides,
        data_root=options.data_root,
        threads=options.threads,
        executor=default_executor(),
    )
    if options.json:
        print(json.dumps({**plan.to_json(), "workers": workers}, indent=2))
    else:
        render_plan(plan, console(), workers)
    return 0


def show_studies(*, as_json: bool) -> int:
    from arch_lab.console import console
    from arch_lab.report.section import Table
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
        rows = [[name, summary] for name, _, summary in studies]
        console().print(Table(headers=["study", "what it asks"], rows=rows, text_columns=(0, 1)))
    return 0
