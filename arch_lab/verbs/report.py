"""``arch-lab report``: the HTML report of a study folder, written again from its plain files; its learning curves or tables as one file."""

from __future__ import annotations

from pathlib import Path

from arch_lab.verbs import UsageError, nearest, parser

EXAMPLES = """examples:
  arch-lab report runs/quickstart
  arch-lab report runs/quickstart --curves curves.svg --arm m2_gpt"""


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, EXAMPLES)
    p.add_argument("folder", metavar="RUNDIR", type=Path, help="the folder of a study, for example runs/quickstart")
    p.add_argument(
        "--curves", metavar="SVG", type=Path, help="write training and tuning curves at every learning rate to this file instead"
    )
    p.add_argument("--arm", metavar="NAME", dest="arms", action="append", default=[], help="with --curves: this arm only (repeatable)")
    p.add_argument("--markdown", action="store_true", help="print the tables for a README instead (studies of speed and of tasks)")
    given = p.parse_args(argv)
    folder: Path = given.folder
    if given.arms and given.curves is None:
        raise UsageError("--arm chooses what --curves draws; add --curves FILE.svg")
    if not (folder / "study.json").is_file():
        near = nearest(folder.name, [f.parent.name for f in folder.parent.glob("*/study.json")]) if folder.parent.is_dir() else ""
        why = "holds no study.json; it is written when arch-lab compare ends" if folder.is_dir() else "no such folder"
        raise UsageError(f"{folder}: {why}{near}")
    if given.curves is not None:
        from arch_lab.report.html import load
        from arch_lab.report.rates import write_rates

        print(write_rates(folder, load(folder), given.curves, given.arms))
        return 0

    from arch_lab.files import read_json
    from arch_lab.report import write
    from arch_lab.study.experiment import engine_named

    study = read_json(folder / "study.json")
    engine = engine_named(study.get("experiment")) if isinstance(study, dict) else None
    if given.markdown and engine is None:
        raise UsageError(f"report: {folder}: --markdown is for studies of speed and of tasks, such as throughput; this one has report.html")
    if engine is not None and given.markdown:
        print(engine.markdown(folder), end="")
    else:
        print(engine.report(folder) if engine is not None else write(folder))
    return 0
