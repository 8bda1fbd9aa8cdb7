"""``arch-lab report``: the HTML report of a study folder, written again from its plain files; its results in another form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arch_lab.cli.verbs import UsageError, add_trust, nearest, parser

EXAMPLES = """examples:
  arch-lab report runs/quickstart --open
  arch-lab report runs/quickstart --markdown
  arch-lab report runs/quickstart --json
  arch-lab report runs/quickstart --curves curves.svg --arm m2_gpt"""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, EXAMPLES)
    p.add_argument(
        "folder", metavar="RUNDIR", type=Path, help="the folder of a study, for example runs/quickstart"
    )
    p.add_argument("--open", action="store_true", help="open the page in the web browser")
    p.add_argument("--json", action="store_true", help="print the content of study.json and write nothing")
    p.add_argument(
        "--markdown", action="store_true", help="print verdict and tables for a README and write nothing"
    )
    p.add_argument(
        "--curves",
        metavar="SVG",
        type=Path,
        help="write training and tuning curves at every learning rate to this file instead",
    )
    p.add_argument(
        "--arm",
        metavar="NAME",
        dest="arms",
        action="append",
        default=[],
        help="with --curves: this arm only (repeatable)",
    )
    add_trust(p)
    options = p.parse_args(argv)
    chosen = [f"--{name}" for name in ("json", "markdown", "curves") if getattr(options, name)]
    if len(chosen) > 1:
        raise UsageError(f"report: {chosen[0]} and {chosen[1]} print different things; choose one")
    if options.open and chosen:
        raise UsageError(f"report: --open shows the page, {chosen[0]} writes none; choose one")
    if options.arms and options.curves is None:
        raise UsageError("--arm chooses what --curves draws; add --curves FILE.svg")
    study = _study(options.folder)
    if options.json:
        print(json.dumps(study, indent=2))
    elif options.curves is not None:
        from arch_lab.report.html import load
        from arch_lab.report.rates import write_rates

        print(write_rates(options.folder, load(options.folder), options.curves, options.arms))
    elif options.markdown:
        print(_markdown(options.folder, study, options.trust), end="")
    else:
        page = _page(options.folder, study, options.trust)
        print(page)
        if options.open:
            import webbrowser

            if not webbrowser.open(page.resolve().as_uri()):
                raise UsageError(f"report: no web browser could be started; open {page} yourself")
    return 0


def _study(folder: Path) -> dict[str, Any]:
    """Content of study.json. Raises: UsageError when the folder has none; DamagedError when it was edited."""
    if not (folder / "study.json").is_file():
        near = (
            nearest(folder.name, [f.parent.name for f in folder.parent.glob("*/study.json")])
            if folder.parent.is_dir()
            else ""
        )
        why = (
            "holds no study.json; it is written when arch-lab compare ends"
            if folder.is_dir()
            else "no such folder"
        )
        raise UsageError(f"{folder}: {why}{near}")
    from arch_lab import sealed

    return sealed.read(folder / "study.json", advice="the same arch-lab compare writes it again")


def _engine(study: dict[str, Any], trust: list[str]) -> Any:
    """The engine of the stored study's experiment. Raises: TrustError when that is a module the user did not name."""
    from arch_lab.study.experiment import engine_named
    from blocks.registry import import_only

    with import_only(trust):  # somebody else may have written the folder
        return engine_named(study.get("experiment"))


def _page(folder: Path, study: dict[str, Any], trust: list[str]) -> Path:
    from arch_lab.files import folder_lock
    from arch_lab.report import write

    engine = _engine(study, trust)
    with folder_lock(folder, "arch-lab report"):
        return engine.report(folder) if engine is not None else write(folder)


def _markdown(folder: Path, study: dict[str, Any], trust: list[str]) -> str:
    engine = _engine(study, trust)
    if engine is not None:
        return engine.markdown(folder)
    from arch_lab.report.html import load
    from arch_lab.report.tables import markdown

    return markdown(load(folder))
