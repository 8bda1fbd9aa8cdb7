"""``arch-lab report``.

The page of a study folder, of several on one page, or of all; a study's results in another form.
"""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from arch_lab.cli.verbs import UsageError, add_trust, nearest, parser

EXAMPLES = """examples:
  arch-lab report runs/quickstart --open
  arch-lab report runs/quickstart more/quickstart --output both.html
  arch-lab report runs                        (index.html: every study there, with its verdict)
  arch-lab report runs/quickstart --markdown
  arch-lab report runs/quickstart --json
  arch-lab report runs/quickstart --curves curves.svg --arm m2_gpt
  arch-lab report runs/frontier --frontier frontier.svg
  arch-lab report runs/short runs/long --lengths lengths.svg"""
FORMS = ("json", "markdown", "curves", "frontier", "lengths", "output")  # options of which one is given


def main(verb: str, argv: list[str]) -> int:
    options = _options(verb, argv)
    if options.json:
        print(json.dumps(_content(options.folders[0]), indent=2))
    elif options.markdown:
        print(_markdown(options.folders[0], options.trust), end="")
    elif options.curves is not None:
        print(_curves(options.folders[0], options.curves, options.arms))
    elif options.frontier is not None:
        print(_frontier(options.folders[0], options.frontier))
    elif options.lengths is not None:
        print(_lengths(options.folders, options.lengths))
    else:
        page = _page(options)
        print(page)
        if options.open:
            _open(page)
    return 0


def _options(verb: str, argv: list[str]) -> Namespace:
    p = parser(verb, EXAMPLES)
    p.add_argument(
        "folders",
        metavar="RUNDIR",
        nargs="+",
        type=Path,
        help="folder of a study, for example runs/quickstart; several with --output; or a folder of studies",
    )
    p.add_argument("--open", action="store_true", help="open the page in the web browser")
    p.add_argument(
        "--output",
        metavar="HTML",
        type=Path,
        help="write the page to this file; of several studies, all on one page",
    )
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
        "--frontier",
        metavar="SVG",
        type=Path,
        help="write score against training FLOPs to this file instead; of one budget, score against size",
    )
    p.add_argument(
        "--lengths",
        metavar="SVG",
        type=Path,
        help="write the scores of several studies against their sequence length to this file instead",
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
    forms = [f"--{name}" for name in FORMS if getattr(options, name)]
    if len(forms) > 1:
        raise UsageError(f"report: {forms[0]} and {forms[1]} print different things; choose one")
    if options.open and forms and forms != ["--output"]:
        raise UsageError(f"report: --open shows the page, {forms[0]} writes none; choose one")
    if options.arms and options.curves is None:
        raise UsageError("--arm chooses what --curves draws; add --curves FILE.svg")
    if len(options.folders) > 1 and options.output is None and options.lengths is None:
        needed = (
            f"{forms[0]} takes one study" if forms else "add --output FILE.html for one page of all of them"
        )
        raise UsageError(f"report: {len(options.folders)} folders given; {needed}")
    return options


def _page(options: Namespace) -> Path:
    """Write what was asked for: an index, one page of several studies, or the page of one."""
    first = options.folders[0]
    if options.output is None and _holds_studies(first):
        from arch_lab.report.page import write_index

        return write_index(first)
    for folder in options.folders:
        _check(folder)
    from arch_lab.files import folder_lock
    from arch_lab.report import load
    from arch_lab.report.page import write_combined, write_page
    from blocks.registry import import_only

    studies = [(folder, load(folder)) for folder in options.folders]
    with import_only(options.trust):  # somebody else may have written the folder
        if options.output is not None:
            return write_combined(studies, options.output)
        with folder_lock(first, "arch-lab report"):
            return write_page(*studies[0])


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        raise UsageError(f"report: no web browser could be started; open {page} yourself")


def _holds_studies(folder: Path) -> bool:
    from arch_lab.study.overview import is_run, run_folders

    return folder.is_dir() and not is_run(folder) and bool(run_folders(folder))


def _check(folder: Path) -> None:
    """Raises: UsageError when the folder holds no finished study, before anything heavy is imported."""
    if (folder / "study.json").is_file():
        return
    others = folder.parent.glob("*/study.json") if folder.parent.is_dir() else ()
    near = nearest(folder.name, [path.parent.name for path in others])
    absent = "holds no study.json; it is written when arch-lab compare ends"
    raise UsageError(f"{folder}: {absent if folder.is_dir() else 'no such folder'}{near}")


def _content(folder: Path) -> object:
    """Content of study.json. Raises: UserError when it was edited, or is of another version."""
    _check(folder)
    from arch_lab import sealed
    from arch_lab.study.study import ADVICE, STUDY, parse_study

    content = sealed.read(folder / STUDY, advice=ADVICE)
    parse_study(content, folder / STUDY)
    return content


def _markdown(folder: Path, trust: list[str]) -> str:
    _check(folder)
    from arch_lab.report import load
    from arch_lab.report.markdown import markdown
    from blocks.registry import import_only

    study = load(folder)
    with import_only(trust):
        return markdown(study)


def _curves(folder: Path, path: Path, arms: list[str]) -> Path:
    _check(folder)
    from arch_lab.report import load
    from arch_lab.report.rates import write_rates

    return write_rates(folder, load(folder), path, arms)


def _frontier(folder: Path, path: Path) -> Path:
    _check(folder)
    from arch_lab.report import load
    from arch_lab.report.frontier import write_frontier

    return write_frontier(load(folder), path)


def _lengths(folders: list[Path], path: Path) -> Path:
    for folder in folders:
        _check(folder)
    from arch_lab.report import load
    from arch_lab.report.lengths import write_lengths

    return write_lengths([load(folder) for folder in folders], path)
